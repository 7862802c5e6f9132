"""What happens to a run, from claim to end; the state changes in `app.runs.transitions` only.

Functions flush and never commit. Where runs become queued, their ids are returned: send their queue
messages after the commit.
"""

from dataclasses import asdict
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Conflict
from app.runs.models import Artifact, LogLine, PublishedFile, Run
from app.runs.states import ACTIVE, FINAL, RunState
from app.runs.transitions import (
    Overtaken,
    RunNotFound,
    StaleAttempt,
    settle_dependants,
    transition,
)
from kdcore.errors import FailureCode
from kdcore.events import MAX_MESSAGE_CHARS
from kdcore.shapes import ModelShape

# ------------------------------------------------------------------------------- users' requests


def cancel(session: Session, run_id: str) -> Run:
    """Cancel a run that has not started; ask a running one to stop. Repeating it is harmless."""
    run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if run is None:
        raise RunNotFound(run_id)
    state = RunState(run.state)
    if state in FINAL:
        raise Conflict(f"run {run_id} has already ended: it is {state}")
    if state is RunState.CANCELLING:
        return run
    if state is RunState.RUNNING:
        return transition(session, run_id, from_=state, to=RunState.CANCELLING, fence=run.attempt)
    run = transition(session, run_id, from_=state, to=RunState.CANCELLED, fence=run.attempt)
    settle_dependants(session, run_id)
    return run


# ------------------------------------------------------------------------------ what workers do


def claim(session: Session, run_id: str, worker_id: str) -> Run | None:
    """Take a queued run as a new attempt; None if there is nothing to take.

    A queue message only means that there is work: if its run is no longer queued, the one that has
    been queued longest is taken. So a duplicate message makes up for another run's lost one.
    """
    for _ in range(3):
        run = session.get(Run, run_id, populate_existing=True)
        if run is None or run.state != RunState.QUEUED:
            run = session.scalars(
                select(Run)
                .where(Run.state == RunState.QUEUED)
                .order_by(Run.queued_at, Run.id)
                .limit(1)
            ).one_or_none()
        if run is None:
            return None
        try:
            return transition(
                session,
                run.id,
                from_=RunState.QUEUED,
                to=RunState.RUNNING,
                fence=run.attempt,
                attempt=run.attempt + 1,
                worker_id=worker_id,
                beat=0,
                started_at=run.started_at or utc_now(),
                claimed_checkpoint_step=run.checkpoint_step,
                phase="starting",
                progress_done=None,
                progress_total=None,
                progress_unit=None,
                eta_s=None,
            )
        except Overtaken:
            continue
    return None


def beat(session: Session, run_id: str, attempt: int) -> RunState:
    """Record a heartbeat of the attempt; returns `running`, or `cancelling` if it is to stop."""
    statement = (
        update(Run)
        .where(Run.id == run_id, Run.attempt == attempt, Run.state.in_(ACTIVE))
        .values(beat=Run.beat + 1)
        .execution_options(synchronize_session=False)
        .returning(Run.state)
    )
    state = session.execute(statement).scalar_one_or_none()
    if state is None:
        raise StaleAttempt(run_id, attempt)
    return RunState(state)


def resume_at(
    session: Session, run_id: str, attempt: int, step: int | None, notes: list[str]
) -> None:
    """Record where an attempt really resumes, if that is not the newest checkpoint there was: what
    it saves from there on is progress."""
    run = _held(session, run_id, attempt)
    session.execute(
        update(Run)
        .where(Run.id == run_id)
        .values(checkpoint_step=step, claimed_checkpoint_step=step, version=Run.version + 1)
        .execution_options(synchronize_session=False)
    )
    for note in notes:
        _note(session, run, note)


def check_lease(session: Session, run_id: str, attempt: int) -> RunState:
    """As `beat`, but only reads."""
    state = session.scalars(
        select(Run.state).where(Run.id == run_id, Run.attempt == attempt, Run.state.in_(ACTIVE))
    ).one_or_none()
    if state is None:
        raise StaleAttempt(run_id, attempt)
    return RunState(state)


def _held(session: Session, run_id: str, attempt: int) -> Run:
    """The run, locked, if this attempt still owns it."""
    run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if run is None or run.attempt != attempt or RunState(run.state) not in ACTIVE:
        raise StaleAttempt(run_id, attempt)
    return run


def succeed(
    session: Session,
    run_id: str,
    attempt: int,
    *,
    result: dict[str, Any],
    shape: ModelShape | None,
    files: list[PublishedFile],
) -> list[str]:
    """End the run with its result; `files` must be complete in the store already.

    A run that was asked to stop but finished first has succeeded.
    """
    run = _held(session, run_id, attempt)
    for file in files:
        session.add(
            Artifact(
                run_id=run_id,
                path=file.path,
                attempt=attempt,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                storage_key=file.storage_key,
            )
        )
    transition(
        session,
        run_id,
        from_=RunState(run.state),
        to=RunState.SUCCEEDED,
        fence=attempt,
        result=result,
        shape=asdict(shape) if shape is not None else run.shape,
    )
    return settle_dependants(session, run_id)


def fail(session: Session, run_id: str, attempt: int, code: FailureCode, message: str) -> list[str]:
    """End the run with a typed failure; runs that wait for it are skipped."""
    run = _held(session, run_id, attempt)
    transition(
        session,
        run_id,
        from_=RunState(run.state),
        to=RunState.FAILED,
        fence=attempt,
        error_code=code,
        error_message=message[:MAX_MESSAGE_CHARS],
    )
    return settle_dependants(session, run_id)


def release(session: Session, run_id: str, attempt: int) -> RunState:
    """The trainer stopped on request: cancelled if a user asked for that, else queued again.

    A worker's shutdown does not count as a failed attempt.
    """
    run = _held(session, run_id, attempt)
    return _requeue(session, run, run.attempts_without_progress)


def attempt_lost(
    session: Session,
    run_id: str,
    attempt: int,
    max_attempts: int,
    reason: str,
    code: FailureCode = "worker_lost",
) -> RunState:
    """Something outside ended the attempt, as its own worker found: retry, or fail with `code`."""
    run = _held(session, run_id, attempt)
    return _lose(session, run, max_attempts, reason, code)


def recover(
    session: Session, run_id: str, attempt: int, silent_beat: int, max_attempts: int
) -> RunState:
    """Take a run back whose attempt has sent no heartbeat since `silent_beat`.

    Raises Overtaken if it has sent one after all.
    """
    run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if (
        run is None
        or run.attempt != attempt
        or run.beat != silent_beat
        or RunState(run.state) not in ACTIVE
    ):
        raise Overtaken(run_id)
    return _lose(session, run, max_attempts, "its worker was lost")


def _lose(
    session: Session,
    run: Run,
    max_attempts: int,
    reason: str,
    code: FailureCode = "worker_lost",
) -> RunState:
    advanced = run.checkpoint_step is not None and (
        run.claimed_checkpoint_step is None or run.checkpoint_step > run.claimed_checkpoint_step
    )
    failed_attempts = 0 if advanced else run.attempts_without_progress + 1
    if failed_attempts < max_attempts or RunState(run.state) is RunState.CANCELLING:
        _note(session, run, f"attempt {run.attempt} was lost: {reason}")
        return _requeue(session, run, failed_attempts)
    transition(
        session,
        run.id,
        from_=RunState.RUNNING,
        to=RunState.FAILED,
        fence=run.attempt,
        attempts_without_progress=failed_attempts,
        error_code=code,
        error_message=f"gave up after {failed_attempts} attempts without a new checkpoint. "
        f"Last error: {reason}"[:MAX_MESSAGE_CHARS],
    )
    settle_dependants(session, run.id)
    return RunState.FAILED


def _note(session: Session, run: Run, message: str) -> None:
    """A line in the log of a run that is locked."""
    seq = session.execute(
        update(Run)
        .where(Run.id == run.id)
        .values(event_seq=Run.event_seq + 1)
        .execution_options(synchronize_session=False)
        .returning(Run.event_seq)
    ).scalar_one()
    session.add(
        LogLine(
            run_id=run.id,
            seq=seq,
            attempt=run.attempt,
            time=utc_now(),
            level="warning",
            message=message[:MAX_MESSAGE_CHARS],
        )
    )


def _requeue(session: Session, run: Run, attempts_without_progress: int) -> RunState:
    state = RunState(run.state)
    if state is RunState.CANCELLING:
        transition(session, run.id, from_=state, to=RunState.CANCELLED, fence=run.attempt)
        settle_dependants(session, run.id)
        return RunState.CANCELLED
    transition(
        session,
        run.id,
        from_=state,
        to=RunState.QUEUED,
        fence=run.attempt,
        attempts_without_progress=attempts_without_progress,
        queued_at=utc_now(),
        phase=None,
        eta_s=None,
    )
    return RunState.QUEUED
