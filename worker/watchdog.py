"""Detects a trainer that hangs because it has been silent for too long; kills nothing itself."""

import time
from collections.abc import Callable
from pathlib import Path

MULTIPLE = 5.0
"""A silence is too long only if it is this many times longer than any before it, because steps may
take minutes."""
MAX_CHECK_S = 5.0
"""At most this much time between two checks counts: a worker that was frozen or waited for a
database has not watched."""


class Watchdog:
    """Watches the files of one trainer for growth."""

    def __init__(
        self,
        files: tuple[Path, ...],
        at_least_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._at_least_s, self._clock = files, at_least_s, clock
        self._size_bytes = self._before_bytes = self._size()
        self._checked_s = clock()
        self._longest_s = 0.0
        self.silent_s = 0.0
        """Time since a file last grew."""
        self.hung = False
        """Whether the silence has ever been too long."""

    @property
    def limit_s(self) -> float:
        """The longest silence that does not count as a hang."""
        return max(self._at_least_s, MULTIPLE * self._longest_s)

    def check(self) -> bool:
        """Whether the silence has ever been too long. Call it about every second."""
        now_s, size_bytes = self._clock(), self._size()
        watched_s, self._checked_s = min(now_s - self._checked_s, MAX_CHECK_S), now_s
        if size_bytes == self._size_bytes:
            self.silent_s += watched_s
            self.hung |= self.silent_s > self.limit_s
            return self.hung
        # The time to load libraries says nothing about the duration of steps.
        if self._size_bytes > self._before_bytes:
            self._longest_s = max(self._longest_s, self.silent_s)
        self._size_bytes, self.silent_s = size_bytes, 0.0
        return self.hung

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._files if path.exists())
