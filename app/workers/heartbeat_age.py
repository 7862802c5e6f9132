"""Time since the last heartbeat of each worker, on the clock of this process."""

import time
from collections.abc import Callable


class HeartbeatAges:
    """Watches heartbeat counters; never compares wall clocks of different hosts.

    The age is the time since a change was seen, so that a worker that is lost already when it is
    seen first begins at 0.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}

    def ages_s(self, beats: dict[str, int]) -> dict[str, float]:
        """For each counter, how long it has not changed as far as was seen."""
        now_s = self._clock()
        seen = {}
        for worker_id, beat in beats.items():
            known = self._seen.get(worker_id)
            seen[worker_id] = known if known and known[0] == beat else (beat, now_s)
        self._seen = seen
        return {worker_id: now_s - since_s for worker_id, (_, since_s) in seen.items()}
