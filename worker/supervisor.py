"""Carries out runs, one at a time: claim, prepare, train, record, publish, end.

An unavailable database or broker never ends a training: its events wait in the trainer's files.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db import Database
from app.monitoring import logs
from app.queue import JobQueue
from app.runs import lifecycle
from app.runs.models import Run
from app.runs.states import FINAL, RunState
from app.runs.transitions import StaleAttempt
from app.settings import Settings
from app.storage import Store
from kdcore.config import RUN_CONFIG
from kdcore.errors import ConfigError, DiskFull, KdcoreError, is_disk_full
from worker.checkpoint_copies import CheckpointCopier, fetch_newest
from worker.heartbeat import Heartbeat, LeaseState
from worker.ingest import Recorder
from worker.inputs import fetch_inputs
from worker.outcome import Failed, Lost, Outcome, Stopped, Succeeded, outcome_of
from worker.publish import publish, withdraw
from worker.retry import DATABASE_UNAVAILABLE, RetryAborted, RetryWhileUnavailable
from worker.tail import last_lines
from worker.trainer_process import Standby, Trainer, trainer_command
from worker.watchdog import Watchdog
from worker.workspace import Workspace

logger = logging.getLogger(__name__)

POLL_S = 0.25
PREPARE_NEXT_S = 5.0
"""Delay, so that a run's start does not compete with loading the next one's libraries."""

T = TypeVar("T")


@dataclass(frozen=True)
class Tools:
    """What a worker works with."""

    settings: Settings
    db: Database
    store: Store
    job_queue: JobQueue
    heartbeat: Heartbeat
    worker_id: str
    device: str
    leave: threading.Event
    """Set when the worker is to exit: save a checkpoint, requeue the run, leave."""
    check_device: Callable[[], None]
    """Makes the worker exit if its device no longer works."""
    standby: Standby | None = None
    """Keeps the next trainer's process ready; None starts each one when it is needed."""


class Supervisor:
    """Handles one queue message at a time."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._retry = RetryWhileUnavailable(tools.leave, tools.settings.stop_grace_s)

    def answer(self, run_id: str) -> None:
        """Carry out the run of this message, or the one that has waited longest, if any."""
        tools = self._tools
        if tools.leave.is_set():
            # The message has been delivered to this worker; another one must get it.
            tools.job_queue.enqueue(run_id)
            return
        try:
            run = self._retry(partial(self._claim, run_id))
            if run is None:
                return
            with logs.bound(run_id=run.id, attempt=run.attempt):
                queued = Attempt(tools, self._retry, run).carry_out()
        except RetryAborted:
            logger.warning("stopped while a service was unavailable; the sweeper will find the run")
            return
        for queued_id in queued:
            tools.job_queue.enqueue(queued_id)

    def _claim(self, run_id: str) -> Run | None:
        with self._tools.db.write() as session:
            return lifecycle.claim(session, run_id, self._tools.worker_id)


class Attempt:
    """One attempt of one run, from its claim to its end."""

    def __init__(self, tools: Tools, retry: RetryWhileUnavailable, run: Run) -> None:
        self._tools = tools
        self._retry = retry
        self._run = run
        self._workspace = Workspace.of(tools.settings, run.id, run.attempt)
        self._lease: LeaseState = tools.heartbeat.watch(run.id, run.attempt)
        self._recorder = Recorder(tools.db, run, self._workspace)
        self._copier = CheckpointCopier(tools.store, self._workspace, tools.settings.mirror_every_s)

    def carry_out(self) -> list[str]:
        """Train and end the run; returns the runs to queue messages for."""
        run = self._run
        logger.info("run %s: attempt %d begins", run.id, run.attempt)
        try:
            queued = self._end(self._outcome())
        except StaleAttempt as error:
            logger.warning("%s: dropped", error)
            if self._retry(self._is_over):
                # The folder was removed when the run ended, perhaps before our trainer last wrote.
                self._workspace.drop_run()
            return []
        finally:
            self._copier.close()
            self._tools.heartbeat.forget()
        logger.info("run %s: attempt %d is over", run.id, run.attempt)
        return queued

    # ------------------------------------------------------------------------------- training

    def _outcome(self) -> Outcome:
        try:
            self._go_on()
            self._retry(self._write_config)
            return self._train()
        except KdcoreError as error:
            return Failed(error.code, str(error))
        except OSError as error:
            if is_disk_full(error):
                return Failed("disk_full", f"the worker's disk is full: {error}")
            return Lost(f"the worker failed: {error}")
        except (RetryAborted, StaleAttempt):
            raise
        except Exception as error:
            # A bug would fail the next attempt too: report it instead of retrying.
            logger.exception("run %s", self._run.id)
            return Failed("internal", f"the worker failed: {type(error).__name__}: {error}")

    def _go_on(self) -> None:
        """Take over what earlier attempts left."""
        run, store = self._run, self._tools.store
        # What attempts before the tail's reported can no longer be stored: if their files are on
        # this host, and another host has continued since, points would be missing.
        inherited = self._workspace.create(1 if store.is_local else run.tail_attempt)
        elsewhere = not store.is_local and not inherited and run.attempt > 1
        if elsewhere:
            step, notes = self._retry(lambda: fetch_newest(store, run.id, self._workspace))
        self._retry(self._recorder.catch_up)
        if elsewhere and (step != run.checkpoint_step or notes):
            if step is None:
                notes.append("no checkpoint of the lost host is left: training starts over")
            self._change(lambda s: lifecycle.resume_at(s, run.id, run.attempt, step, notes))
        self._workspace.drop_earlier()

    def _write_config(self) -> None:
        tools, workspace = self._tools, self._workspace
        try:
            config = RUN_CONFIG.validate_python(self._run.config)
        except ValidationError as error:  # an older version accepted it
            problem = error.errors()[0]
            path = tuple(problem["loc"][1:])
            raise ConfigError(path, problem["msg"].removeprefix("Value error, ")) from error
        inputs = fetch_inputs(config, workspace, tools.db, tools.settings, tools.store)
        workspace.write_config(config, inputs)

    def _train(self) -> Outcome:
        settings = self._tools.settings
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
        command = trainer_command(self._workspace, settings.cache_dir, self._tools.device)
        standby = self._tools.standby
        trainer = Trainer(command, self._workspace, settings.stop_grace_s, standby)
        watchdog = Watchdog((self._workspace.events, self._workspace.stderr), settings.hung_after_s)
        try:
            status = self._watch(trainer, watchdog)
            self._prepare_next()
            self._retry(self._recorder.record_rest)
        finally:
            trainer.end()
        return outcome_of(
            status,
            self._recorder.ending,
            asked_to_stop=trainer.asked_to_stop,
            oom_killed=trainer.oom_killed(),
            stderr_tail=last_lines(self._workspace.stderr),
            hung_s=watchdog.silent_s if watchdog.hung else None,
        )

    def _watch(self, trainer: Trainer, watchdog: Watchdog) -> int:
        """Wait for the trainer's end, recording what it says; returns its exit status.

        A trainer that hangs is killed here, even while it exits with its result reported.
        """
        kill_at_s: float | None = None
        put_off_until = 0
        polls = 0
        pause = threading.Event()
        while (status := trainer.poll()) is None:
            polls += 1
            if polls == PREPARE_NEXT_S / POLL_S:
                self._prepare_next()
            if self._lease.stale:
                raise StaleAttempt(self._run.id, self._run.attempt)
            if self._lease.cancelling or self._tools.leave.is_set():
                trainer.stop()
            if kill_at_s is None and self._recorder.has_result:
                kill_at_s = time.monotonic() + self._tools.settings.stop_grace_s
            if watchdog.check() or (kill_at_s is not None and time.monotonic() > kill_at_s):
                trainer.kill()
            try:
                busy = polls >= put_off_until and self._recorder.record()
                self._copier.offer(self._recorder.checkpoint)
            except DATABASE_UNAVAILABLE as error:
                logger.warning("recording postponed, the database is unavailable: %s", error)
                busy, put_off_until = False, polls + round(2 / POLL_S)
            if not busy:
                pause.wait(POLL_S)
        return status

    def _prepare_next(self) -> None:
        if self._tools.standby is not None and not self._tools.leave.is_set():
            self._tools.standby.prepare()

    # ------------------------------------------------------------------------------- the end

    def _end(self, outcome: Outcome) -> list[str]:
        run_id, attempt = self._run.id, self._run.attempt
        logger.info("run %s: %s", run_id, type(outcome).__name__.lower())
        if isinstance(outcome, Stopped | Lost) and not self._lease.cancelling:
            self._copier.offer(self._recorder.checkpoint)
            self._copier.flush(self._tools.settings.stop_grace_s)
        self._copier.close()
        match outcome:
            case Succeeded():
                return self._succeed(outcome)
            case Failed(code, message):
                self._change(lambda s: lifecycle.fail(s, run_id, attempt, code, message))
                self._copier.remove_all()
                return []
            case Stopped():
                state = self._change(lambda s: lifecycle.release(s, run_id, attempt))
            case Lost(reason, code):
                limit = self._tools.settings.max_attempts_without_progress
                state = self._change(
                    lambda s: lifecycle.attempt_lost(s, run_id, attempt, limit, reason, code)
                )
                # Before the run is queued again, which this worker would take itself.
                self._tools.check_device()
        if state is RunState.CANCELLED:
            self._workspace.drop_run()
        if state is not RunState.QUEUED:
            self._copier.remove_all()
        return [run_id] if state is RunState.QUEUED else []

    def _succeed(self, outcome: Succeeded) -> list[str]:
        run_id, attempt = self._run.id, self._run.attempt
        try:
            files = self._retry(lambda: publish(self._workspace, run_id, self._tools.store))
        except DiskFull as error:
            return self._end(Failed("disk_full", str(error)))
        except KdcoreError as error:
            return self._end(Failed("internal", str(error)))
        except OSError as error:
            return self._end(Lost(f"the store is unavailable: {error}"))
        try:
            queued = self._change(
                lambda s: lifecycle.succeed(
                    s, run_id, attempt, result=outcome.summary, shape=outcome.shape, files=files
                )
            )
        except StaleAttempt:
            if not self._has_succeeded():
                withdraw(self._workspace, run_id, self._tools.store)
                raise
            queued = []
        self._workspace.drop_run()
        self._copier.remove_all()
        return queued

    def _has_succeeded(self) -> bool:
        """Whether it was this attempt that ended the run, with the reply to its commit lost."""

        def check() -> bool:
            with self._tools.db.read() as session:
                run = session.get(Run, self._run.id)
                return (
                    run is not None
                    and run.attempt == self._run.attempt
                    and run.state == RunState.SUCCEEDED
                )

        return self._retry(check)

    def _is_over(self) -> bool:
        """Whether the run's work folder is no longer needed."""
        with self._tools.db.read() as session:
            run = session.get(Run, self._run.id)
            # That of a failed run is kept for inspection.
            return run is None or (run.state in FINAL and run.state != RunState.FAILED)

    def _change(self, change: Callable[[Session], T]) -> T:
        def work() -> T:
            with self._tools.db.write() as session:
                return change(session)

        return self._retry(work)
