"""Converts rows to response bodies; writes nothing."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.runs.models import LogLine, Run, RunInput
from app.runs.schemas import (
    Lineage,
    LineageRun,
    LogEntry,
    Progress,
    RunDetail,
    RunError,
    RunInputRef,
    RunLog,
    RunSummary,
    RunWorker,
)
from app.runs.states import ACTIVE, FINAL, RunState
from app.schemas import fields_of
from app.workers.models import Worker

MAX_LINEAGE = 200


def _summary_fields(run: Run) -> dict[str, Any]:
    progress = error = None
    if run.phase is not None:
        progress = Progress(
            phase=run.phase,
            done=run.progress_done or 0.0,
            total=run.progress_total,
            unit=run.progress_unit,
            eta_s=run.eta_s,
        )
    if run.error_code is not None or run.error_message is not None:
        # A skipped run has a reason but no failure code: its code is its state.
        error = RunError(code=run.error_code or run.state, message=run.error_message or "")
    inputs = [RunInputRef(role=each.role, run_id=each.input_run_id) for each in run.inputs]
    return fields_of(run, RunSummary) | {
        "progress": progress,
        "error": error,
        "inputs": sorted(inputs, key=lambda each: each.role),
    }


def run_summary(run: Run) -> RunSummary:
    """The run as lists show it."""
    return RunSummary(**_summary_fields(run))


def run_detail(session: Session, run: Run) -> RunDetail:
    """The run as its page shows it, with worker and lineage."""
    worker = session.get(Worker, run.worker_id) if run.worker_id else None
    return RunDetail(
        **fields_of(run, RunDetail) | _summary_fields(run),
        worker=worker and RunWorker(**fields_of(worker, RunWorker)),
        recovering=RunState(run.state) not in FINAL and _was_lost(run),
        lineage=Lineage(
            ancestors=_relatives(session, run.id, ancestors=True),
            descendants=_relatives(session, run.id, ancestors=False),
        ),
        last_seq=run.event_seq,
    )


def _was_lost(run: Run) -> bool:
    # `attempt` counts the claims, including the current one.
    return run.attempt > (1 if run.state in ACTIVE else 0)


def _relatives(session: Session, run_id: str, *, ancestors: bool) -> list[LineageRun]:
    """Breadth first, each run once, at most `MAX_LINEAGE`."""
    here, there = RunInput.run_id, RunInput.input_run_id
    if not ancestors:
        here, there = there, here
    found: dict[str, LineageRun] = {}
    frontier = [run_id]
    while frontier and len(found) < MAX_LINEAGE:
        rows = session.execute(
            select(RunInput.role, Run.id, Run.name, Run.kind, Run.state)
            .join(Run, Run.id == there)
            .where(here.in_(frontier))
            .order_by(Run.created_at, Run.id, RunInput.role)
        ).all()
        frontier = []
        for role, relative_id, name, kind, state in rows:
            if relative_id not in found and relative_id != run_id and len(found) < MAX_LINEAGE:
                found[relative_id] = LineageRun(
                    role=role, id=relative_id, name=name, kind=kind, state=state
                )
                frontier.append(relative_id)
    return list(found.values())


def run_log(session: Session, run: Run, since: int, limit: int) -> RunLog:
    """Lines after `since`, oldest first; without `since` the newest lines, so a page opens fast."""
    newest_first = since <= 0
    order = LogLine.seq.desc() if newest_first else LogLine.seq
    rows = session.scalars(
        select(LogLine)
        .where(LogLine.run_id == run.id, LogLine.seq > since)
        .order_by(order)
        .limit(limit)
    ).all()
    ordered = reversed(rows) if newest_first else rows
    items = [LogEntry(**fields_of(row, LogEntry)) for row in ordered]
    more = not newest_first and len(items) == limit
    return RunLog(items=items, last_seq=items[-1].seq if more else max(since, run.event_seq))
