"""How long work tells what it is doing, without knowing who looks."""

from collections.abc import Callable
from typing import Protocol

Advance = Callable[[int], None]
"""Told of every piece of work done, in the unit of the phase."""


def noop(_amount: int) -> None:
    """For work at which nobody looks."""


class Watcher(Protocol):
    """Somebody who looks on."""

    def phase(self, what: str, total: int, unit: str) -> Advance:
        """A new phase begins, of so many `rows`, `runs` or `bytes`."""


class NullProgress:
    """Looks at nothing."""

    def phase(self, what: str, total: int, unit: str) -> Advance:
        """Drops what it is told."""
        return noop
