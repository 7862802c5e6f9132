"""Sends the heartbeats of the worker and its run, and reads cancel requests of the run."""

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
from worker.retry import DATABASE_UNAVAILABLE

logger = logging.getLogger(__name__)

CHECK_S = 2.0
"""The run is checked between heartbeats, so that a cancel need not wait for the next one."""


@dataclass
class LeaseState:
    """State of an attempt as of its last heartbeat."""

    run_id: str
    attempt: int
    cancelling: bool = False
    stale: bool = False
    """The attempt has lost its run: stop the trainer, write nothing more."""


class Heartbeat:
    """A thread that sends heartbeats; skips one while the database is unavailable."""

    def __init__(
        self, db: Database, worker_id: str, settings: Settings, meter: Meter | None = None
    ) -> None:
        self._db = db
        self._worker_id = worker_id
        self._meter = meter
        self._beat_s = settings.heartbeat_s
        self._check_s = min(CHECK_S, settings.heartbeat_s)
        self._lease: LeaseState | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._end.set()
        self._thread.join()

    def watch(self, run_id: str, attempt: int) -> LeaseState:
        """Send heartbeats for this attempt too."""
        self._lease = LeaseState(run_id, attempt)
        return self._lease

    def forget(self) -> None:
        """Stop the heartbeats of the attempt."""
        self._lease = None

    def _run(self) -> None:
        next_beat_s = time.monotonic()
        while not self._end.wait(self._check_s):
            due = time.monotonic() >= next_beat_s
            try:
                self._beat() if due else self._check()
            except DATABASE_UNAVAILABLE as error:
                logger.warning("no heartbeat, the database is unavailable: %s", error)
            else:
                if due:
                    next_beat_s = time.monotonic() + self._beat_s - self._check_s / 2
            lease = self._lease
            if lease is not None and lease.stale:
                self._lease = None

    def _beat(self) -> None:
        lease = self._lease
        if lease is not None:
            with self._db.write() as session:
                self._update(lease, lambda: lifecycle.beat(session, lease.run_id, lease.attempt))
        usage = self._meter.latest if self._meter else None
        with self._db.write() as session:
            session.execute(
                update(Worker)
                .where(Worker.id == self._worker_id)
                .values(beat=Worker.beat + 1, seen_at=utc_now(), usage=usage)
            )

    def _check(self) -> None:
        lease = self._lease
        if lease is not None:
            with self._db.read() as session:
                self._update(
                    lease, lambda: lifecycle.check_lease(session, lease.run_id, lease.attempt)
                )

    @staticmethod
    def _update(lease: LeaseState, read: Callable[[], RunState]) -> None:
        try:
            lease.cancelling = read() is RunState.CANCELLING
        except StaleAttempt:
            lease.stale = True
