"""The single UPDATE behind every state change, and its effect on dependent runs.

Functions flush and never commit. Rows are locked in order of creation, inputs before dependents,
so that two transactions never wait for each other.
"""

from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Conflict, NotFound
from app.runs.models import Run, RunInput
from app.runs.states import ALLOWED, FINAL, UNSUCCESSFUL, RunState


class RunNotFound(NotFound):
    """There is no such run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run {run_id}; it may have been deleted.")


class Overtaken(Conflict):
    """The run was changed concurrently."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} has just changed its state: reload and try again.")


class StaleAttempt(Exception):
    """This attempt no longer owns its run, which was recovered, has ended, or was deleted."""

    def __init__(self, run_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} no longer owns run {run_id}")


def transition(
    session: Session,
    run_id: str,
    *,
    from_: RunState,
    to: RunState,
    fence: int,
    only_if: tuple[ColumnElement[bool], ...] = (),
    **values: Any,
) -> Run:
    """Change the state of attempt `fence` of a run; raises Overtaken for a concurrent change."""
    if to not in ALLOWED[from_]:
        raise ValueError(f"a run cannot go from {from_} to {to}")
    if to in FINAL:
        values |= {"finished_at": utc_now(), "phase": None, "eta_s": None}
    statement = (
        update(Run)
        .where(Run.id == run_id, Run.state == from_, Run.attempt == fence, *only_if)
        .values(state=to, version=Run.version + 1, **values)
        .execution_options(synchronize_session=False)
        .returning(Run.id)
    )
    if session.execute(statement).one_or_none() is None:
        raise Overtaken(run_id)
    return session.scalars(
        select(Run).where(Run.id == run_id), execution_options={"populate_existing": True}
    ).one()


def settle_dependants(session: Session, run_id: str) -> list[str]:
    """Queue or skip the runs waiting for `run_id`, which has ended; returns the queued ids."""
    queued: list[str] = []
    ended = [run_id]
    while ended:
        waiting = session.scalars(
            select(Run)
            .join(RunInput, RunInput.run_id == Run.id)
            .where(RunInput.input_run_id == ended.pop(), Run.state == RunState.WAITING)
            .order_by(Run.created_at, Run.id)
            # Locked before the other inputs are read: of two inputs that end at the same
            # time, the later one to get the lock sees both.
            .with_for_update(of=Run),
            execution_options={"populate_existing": True},
        ).all()
        for dependant in waiting:
            state = settle(session, dependant)
            if state is RunState.QUEUED:
                queued.append(dependant.id)
            elif state is RunState.SKIPPED:
                ended.append(dependant.id)
    return queued


def settle(session: Session, run: Run) -> RunState:
    """Queue or skip a locked waiting run as its inputs require; returns its state."""
    inputs = session.execute(
        select(RunInput.role, Run.id, Run.name, Run.state)
        .join(Run, Run.id == RunInput.input_run_id)
        .where(RunInput.run_id == run.id)
        .order_by(RunInput.role)
    ).all()
    for role, input_id, name, state in inputs:
        if RunState(state) in UNSUCCESSFUL:
            message = f"its {role}, run {input_id} ({name}), ended as {state}"
            transition(
                session,
                run.id,
                from_=RunState.WAITING,
                to=RunState.SKIPPED,
                fence=run.attempt,
                error_message=message,
            )
            return RunState.SKIPPED
    if all(RunState(state) is RunState.SUCCEEDED for _, _, _, state in inputs):
        transition(
            session,
            run.id,
            from_=RunState.WAITING,
            to=RunState.QUEUED,
            fence=run.attempt,
            queued_at=utc_now(),
        )
        return RunState.QUEUED
    return RunState.WAITING
