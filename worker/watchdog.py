"""Notices a trainer that hangs: one that is silent for far too long; ends nobody itself."""

import time
from collections.abc import Callable
from pathlib import Path

MULTIPLE = 5.0
"""A silence is too long only when it is so many times as long as any before it: an update that
takes minutes is no reason to worry about the next one."""
MAX_LOOK_S = 5.0
"""At most so much of the time between two looks counts: whoever was frozen, or waited for a
database, has not listened."""


class Watchdog:
    """Listens to the files of one trainer, by their growth alone."""

    def __init__(
        self,
        files: tuple[Path, ...],
        at_least_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._at_least_s, self._clock = files, at_least_s, clock
        self._size_bytes = self._before_bytes = self._size()
        self._looked_s = clock()
        self._longest_s = 0.0
        self.silent_s = 0.0
        """For how long nothing has been heard."""
        self.barked = False
        """Whether the silence has ever been too long."""

    @property
    def limit_s(self) -> float:
        """The longest silence that is still no reason to worry."""
        return max(self._at_least_s, MULTIPLE * self._longest_s)

    def barks(self) -> bool:
        """Look once; whether the silence has become too long. Call it every second or so."""
        now_s, size_bytes = self._clock(), self._size()
        listened_s, self._looked_s = min(now_s - self._looked_s, MAX_LOOK_S), now_s
        if size_bytes == self._size_bytes:
            self.silent_s += listened_s
            self.barked |= self.silent_s > self.limit_s
            return self.barked
        # How long the libraries took to load says nothing about the updates.
        if self._size_bytes > self._before_bytes:
            self._longest_s = max(self._longest_s, self.silent_s)
        self._size_bytes, self.silent_s = size_bytes, 0.0
        return self.barked

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._files if path.exists())
