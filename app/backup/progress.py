"""How long-running work reports its progress."""

from collections.abc import Callable
from typing import Protocol

from kdcore.files import noop

Advance = Callable[[int], None]
"""Told of every piece of work done, in the unit of the phase."""


class Progress(Protocol):
    """Shows the progress of phases one after the other."""

    def phase(self, what: str, total: int, unit: str) -> Advance:
        """Begin a new phase of `total` `rows`, `runs` or `bytes`."""


class NullProgress:
    """Shows nothing."""

    def phase(self, what: str, total: int, unit: str) -> Advance:
        """Ignores the phase."""
        return noop
