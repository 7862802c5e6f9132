"""Which batches every optimizer step takes, and a thread that prepares the next one."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from kdcore.config import Schedule
from kdcore.data.batching import Batch


class PlannedBatch(NamedTuple):
    """A batch and its place in the plan."""

    epoch: int
    number: int
    """Of the batch in its epoch."""
    batch: Batch


@dataclass(frozen=True)
class TrainingPlan:
    """How many optimizer steps there are and which batches each of them takes."""

    batches_per_epoch: int
    accumulation_steps: int
    total_steps: int

    @classmethod
    def of(cls, schedule: Schedule, batches_per_epoch: int) -> "TrainingPlan":
        per_epoch = -(-batches_per_epoch // schedule.accumulation_steps)
        total = max(1, math.ceil(schedule.epochs * per_epoch - 1e-9))
        if schedule.max_steps is not None:
            total = min(total, schedule.max_steps)
        return cls(batches_per_epoch, schedule.accumulation_steps, total)

    def batches(self, step: int) -> list[tuple[int, int]]:
        """(epoch, index) of each batch that `step` (from 0) takes.

        The last step of an epoch may take fewer than `accumulation_steps`; none is left out.
        """
        per_epoch = -(-self.batches_per_epoch // self.accumulation_steps)
        epoch, number = divmod(step, per_epoch)
        start = number * self.accumulation_steps
        stop = min(start + self.accumulation_steps, self.batches_per_epoch)
        return [(epoch, index) for index in range(start, stop)]


class BatchPrefetcher:
    """Makes batches in a thread, one ahead of the one in use."""

    def __init__(self, plan: TrainingPlan, batch: Callable[[int, int], Batch]) -> None:
        self._plan, self._batch = plan, batch
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._pending: dict[tuple[int, int], Future[Batch]] = {}

    def batches_of_step(self, step: int) -> Iterator[PlannedBatch]:
        """The batches of optimizer step `step`."""
        places = self._plan.batches(step)
        if step + 1 < self._plan.total_steps:
            following = [*places[1:], self._plan.batches(step + 1)[0]]
        else:
            following = places[1:]
        for number, place in enumerate(places):
            ready = self._pending.pop(place, None) or self._start(place)
            batch = ready.result()
            if number < len(following):
                self._pending = {following[number]: self._start(following[number])}
            yield PlannedBatch(*place, batch)

    def _start(self, place: tuple[int, int]) -> Future[Batch]:
        return self._pool.submit(self._batch, *place)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
