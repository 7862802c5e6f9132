"""Recovers orphaned runs, enqueues lost jobs again, settles runs whose inputs have ended.

Runs in every worker and API process, which is safe since every change is fenced. Never compares
wall clocks: what counts is for how long this sweeper, on its own monotonic clock, has seen a
counter stand still.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import Database
from app.idempotency import forget_expired_keys
from app.queue import JobQueue
from app.runs.lifecycle import recover
from app.runs.models import Run, RunInput
from app.runs.states import ACTIVE, FINAL, RunState
from app.runs.transitions import Overtaken, settle
from app.settings import Settings

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
MAX_ENQUEUED = 100
"""Per sweep; the next one follows within seconds."""


@dataclass
class _Watched:
    """A counter that should change, and for how long it has not."""

    counter: tuple[int, int]
    silent_s: float = 0.0


class Sweeper:
    """`sweep` does everything once, `run` repeats it until told to stop."""

    def __init__(
        self,
        db: Database,
        job_queue: JobQueue,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._job_queue = job_queue
        self._settings = settings
        self._clock = clock
        self.interval_s = min(INTERVAL_S, settings.lease_s / 4, settings.requeue_after_s / 2)
        self._last_sweep_s: float | None = None
        self._active: dict[str, _Watched] = {}
        self._queued: dict[str, _Watched] = {}

    def run(self, stop: threading.Event) -> None:
        """Sweep at intervals until `stop` is set; database errors are retried."""
        while not stop.wait(self.interval_s):
            try:
                self.sweep()
            except SQLAlchemyError as error:
                logger.warning("sweep postponed, database error: %s", error)

    def sweep(self) -> None:
        """Recover orphans, settle waiting runs, enqueue again, drop old Idempotency-Keys."""
        elapsed_s = self._elapsed_s()
        with self._db.read() as session:
            active = _counters(session, *ACTIVE)
            queued = _counters(session, RunState.QUEUED)
            overdue = _overdue(session)
        _watch(self._active, active, elapsed_s)
        _watch(self._queued, queued, elapsed_s)
        queued_ids = [
            run_id
            for run_id, watched in list(self._active.items())
            if watched.silent_s >= self._settings.lease_s and self._recover(run_id, watched)
        ]
        queued_ids += [run_id for run_id in overdue if self._settle(run_id)]
        for run_id in queued_ids:
            self._job_queue.enqueue(run_id)
        self._enqueue_again(len(queued))
        forget_expired_keys(self._db)

    def _elapsed_s(self) -> float:
        """Time since the last sweep, at most two intervals.

        While the database was unavailable, or this process suspended, no heartbeat could arrive or
        be seen, so that the gap does not count.
        """
        now_s = self._clock()
        last_s, self._last_sweep_s = self._last_sweep_s, now_s
        return 0.0 if last_s is None else min(now_s - last_s, 2 * self.interval_s)

    def _recover(self, run_id: str, watched: _Watched) -> bool:
        attempt, silent_beat = watched.counter
        del self._active[run_id]
        try:
            with self._db.write() as session:
                state = recover(
                    session,
                    run_id,
                    attempt,
                    silent_beat,
                    self._settings.max_attempts_without_progress,
                )
        except Overtaken:
            return False
        logger.warning(
            "run %s: no heartbeat of attempt %d for %.0f s, now %s",
            run_id,
            attempt,
            watched.silent_s,
            state,
        )
        return state is RunState.QUEUED

    def _settle(self, run_id: str) -> bool:
        try:
            with self._db.write() as session:
                run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
                if run is None or run.state != RunState.WAITING:
                    return False
                return settle(session, run) is RunState.QUEUED
        except Overtaken:
            return False

    def _enqueue_again(self, queued: int) -> None:
        """Enqueue runs that have been queued for long, with at most one job per queued run.

        It is not known which job was lost; a worker that finds the run of its job taken executes
        the one that has waited longest.
        """
        late = [
            run_id
            for run_id, watched in self._queued.items()
            if watched.silent_s >= self._settings.requeue_after_s
        ]
        if not late:
            return
        jobs = self._job_queue.length()
        if jobs is None:
            return
        for run_id in late[: min(MAX_ENQUEUED, max(0, queued - jobs))]:
            if not self._job_queue.enqueue(run_id):
                return
            self._queued[run_id].silent_s = 0.0


def _counters(session: Session, *states: RunState) -> dict[str, tuple[int, int]]:
    rows = session.execute(
        select(Run.id, Run.attempt, Run.beat)
        .where(Run.state.in_(states))
        .order_by(Run.queued_at, Run.id)
    )
    return {run_id: (attempt, beat) for run_id, attempt, beat in rows}


def _overdue(session: Session) -> list[str]:
    """Waiting runs whose inputs have all ended; normally none."""
    unfinished = (
        select(RunInput.run_id)
        .join(Run, Run.id == RunInput.input_run_id)
        .where(Run.state.not_in(FINAL))
    )
    return list(
        session.scalars(
            select(Run.id)
            .where(Run.state == RunState.WAITING, Run.id.not_in(unfinished))
            .order_by(Run.created_at)
            .limit(MAX_ENQUEUED)
        )
    )


def _watch(
    watched: dict[str, _Watched], counters: dict[str, tuple[int, int]], elapsed_s: float
) -> None:
    """Add `elapsed_s` to the silence of unchanged counters; reset the others."""
    for run_id in watched.keys() - counters.keys():
        del watched[run_id]
    for run_id, counter in counters.items():
        known = watched.get(run_id)
        if known is None or known.counter != counter:
            watched[run_id] = _Watched(counter)
        else:
            known.silent_s += elapsed_s
