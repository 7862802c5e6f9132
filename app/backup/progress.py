"""Reports the progress of a backup or restore; knows no terminal."""

from collections.abc import Callable
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the amount of work done, in the unit of the phase."""


def noop(_amount: int) -> None:
    """Reports nothing."""


class Watcher(Protocol):
    """Shows progress, as `app.cli.terminal.PhaseBars` does."""

    def phase(self, what: str, total: int, unit: str) -> Advance:
        """Begin a phase of `total` `rows`, `runs` or `bytes`."""
