"""Beats for the worker and the run in its hand, and hears what people ask of the run."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import update

from app.db import Database, utc_now
from app.runs import lifecycle
from app.runs.states import RunState
from app.runs.transitions import StaleAttempt
from app.settings import Settings
from app.workers.models import Worker
from worker.resource_usage import Meter
from worker.retry import DATABASE_AWAY

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two beats the run is looked at, so that a cancel need not wait for the next beat."""


@dataclass
class LeaseState:
    """What is known of an attempt from its last beat."""

    run_id: str
    attempt: int
    cancelling: bool = False
    stale: bool = False
    """The run was taken back: stop the trainer, write nothing more."""


class Heartbeat:
    """A thread that beats at intervals; a database that is away is tried again at the next."""

    def __init__(
        self, db: Database, worker_id: str, settings: Settings, meter: Meter | None = None
    ) -> None:
        self._db = db
        self._worker_id = worker_id
        self._meter = meter
        self._beat_s = settings.heartbeat_s
        self._look_s = min(LOOK_S, settings.heartbeat_s)
        self._pulse: LeaseState | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._end.set()
        self._thread.join()

    def watch(self, run_id: str, attempt: int) -> LeaseState:
        """Beat for this attempt too, from now on."""
        self._pulse = LeaseState(run_id, attempt)
        return self._pulse

    def forget(self) -> None:
        """The attempt is over."""
        self._pulse = None

    def _run(self) -> None:
        next_beat_s = time.monotonic()
        while not self._end.wait(self._look_s):
            due = time.monotonic() >= next_beat_s
            try:
                self._beat() if due else self._look()
            except DATABASE_AWAY as error:
                logger.warning("no heartbeat, the database is away: %s", error)
            else:
                if due:
                    next_beat_s = time.monotonic() + self._beat_s - self._look_s / 2
            pulse = self._pulse
            if pulse is not None and pulse.stale:
                self._pulse = None

    def _beat(self) -> None:
        pulse = self._pulse
        if pulse is not None:
            with self._db.write() as session:
                self._hear(pulse, lambda: lifecycle.beat(session, pulse.run_id, pulse.attempt))
        usage = self._meter.latest if self._meter else None
        with self._db.write() as session:
            session.execute(
                update(Worker)
                .where(Worker.id == self._worker_id)
                .values(beat=Worker.beat + 1, seen_at=utc_now(), usage=usage)
            )

    def _look(self) -> None:
        pulse = self._pulse
        if pulse is not None:
            with self._db.read() as session:
                self._hear(
                    pulse, lambda: lifecycle.check_lease(session, pulse.run_id, pulse.attempt)
                )

    @staticmethod
    def _hear(pulse: LeaseState, ask: Callable[[], RunState]) -> None:
        try:
            pulse.cancelling = ask() is RunState.CANCELLING
        except StaleAttempt:
            pulse.stale = True
