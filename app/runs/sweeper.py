"""Finds what fell between two stools: orphaned runs, lost doorbells, missed ends of inputs.

Runs in every worker and in the API process; all of them may, since every change is fenced. Never
compares wall clocks: what counts is for how long this sweeper, on its own monotonic clock, has
watched a counter stand still.
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
MAX_RINGS = 100
"""At most so many doorbells in one sweep; the next one is seconds away."""


@dataclass
class _Watched:
    """Something that should change, and for how long it has not."""

    sign: tuple[int, int]
    silent_s: float = 0.0


class Sweeper:
    """One watcher; `sweep` does everything once, `run` does it until told to stop."""

    def __init__(
        self,
        db: Database,
        job_queue: JobQueue,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._doorbell = job_queue
        self._settings = settings
        self._clock = clock
        self.interval_s = min(INTERVAL_S, settings.lease_s / 4, settings.ring_again_s / 2)
        self._last_sweep_s: float | None = None
        self._active: dict[str, _Watched] = {}
        self._queued: dict[str, _Watched] = {}

    def run(self, stop: threading.Event) -> None:
        """Sweep at intervals until `stop` is set; a database that is away is waited for."""
        while not stop.wait(self.interval_s):
            try:
                self.sweep()
            except SQLAlchemyError as error:
                logger.warning("sweep put off, the database does not answer: %s", error)

    def sweep(self) -> None:
        """Look once; recover orphans, settle what waits, ring again, drop old Idempotency-Keys."""
        elapsed_s = self._elapsed_s()
        with self._db.read() as session:
            active = _signs(session, *ACTIVE)
            queued = _signs(session, RunState.QUEUED)
            overdue = _overdue(session)
        _watch(self._active, active, elapsed_s)
        _watch(self._queued, queued, elapsed_s)
        ring = [
            run_id
            for run_id, watched in list(self._active.items())
            if watched.silent_s >= self._settings.lease_s and self._recover(run_id, watched)
        ]
        ring += [run_id for run_id in overdue if self._settle(run_id)]
        for run_id in ring:
            self._doorbell.ring(run_id)
        self._ring_again(len(queued))
        forget_expired_keys(self._db)

    def _elapsed_s(self) -> float:
        """Time since the last look, as far as it counts as watching.

        While the database was away, or this process frozen, nobody could beat or be seen
        beating: of such a gap only two intervals count.
        """
        now_s = self._clock()
        last_s, self._last_sweep_s = self._last_sweep_s, now_s
        return 0.0 if last_s is None else min(now_s - last_s, 2 * self.interval_s)

    def _recover(self, run_id: str, watched: _Watched) -> bool:
        attempt, silent_beat = watched.sign
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
            "run %s: no beat of attempt %d for %.0f s, now %s",
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

    def _ring_again(self, queued: int) -> None:
        """Ring for runs that have been queued for long, but never more bells than queued runs.

        Which bell was lost cannot be known, and need not: a worker that finds the run of its bell
        taken takes the one that has waited longest.
        """
        late = [
            run_id
            for run_id, watched in self._queued.items()
            if watched.silent_s >= self._settings.ring_again_s
        ]
        if not late:
            return
        bells = self._doorbell.length()
        if bells is None:
            return
        for run_id in late[: min(MAX_RINGS, max(0, queued - bells))]:
            if not self._doorbell.ring(run_id):
                return
            self._queued[run_id].silent_s = 0.0


def _signs(session: Session, *states: RunState) -> dict[str, tuple[int, int]]:
    rows = session.execute(
        select(Run.id, Run.attempt, Run.beat)
        .where(Run.state.in_(states))
        .order_by(Run.queued_at, Run.id)
    )
    return {run_id: (attempt, beat) for run_id, attempt, beat in rows}


def _overdue(session: Session) -> list[str]:
    """Waiting runs none of whose inputs is still to end; normally none."""
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
            .limit(MAX_RINGS)
        )
    )


def _watch(
    watched: dict[str, _Watched], signs: dict[str, tuple[int, int]], elapsed_s: float
) -> None:
    """Add `elapsed_s` to the silence of what has not changed; begin anew with the rest."""
    for gone in watched.keys() - signs.keys():
        del watched[gone]
    for run_id, sign in signs.items():
        known = watched.get(run_id)
        if known is None or known.sign != sign:
            watched[run_id] = _Watched(sign)
        else:
            known.silent_s += elapsed_s
