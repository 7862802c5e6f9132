"""How long ago workers last beat, on this process's own clock; touches no database."""

import time
from collections.abc import Callable


class HeartbeatAges:
    """Watches counters; a wall clock of another host is never compared with ours.

    What was not looked at is not known: an age is that of the last change that a look has found, so
    a worker that is already gone at the first look begins at 0 and ages from there.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}

    def ages_s(self, beats: dict[str, int]) -> dict[str, float]:
        """For each counter, for how long it has stood still as far as we have seen."""
        now_s = self._clock()
        seen = {}
        for worker_id, beat in beats.items():
            known = self._seen.get(worker_id)
            seen[worker_id] = known if known and known[0] == beat else (beat, now_s)
        self._seen = seen
        return {worker_id: now_s - since_s for worker_id, (_, since_s) in seen.items()}
