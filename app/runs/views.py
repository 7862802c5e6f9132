"""Turns rows into what clients see; writes nothing."""

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
from app.runs.states import FINAL, RunState
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
        # A run that was skipped has a reason, but did not fail: its code is its state.
        error = RunError(code=run.error_code or run.state, message=run.error_message or "")
    inputs = [RunInputRef(role=each.role, run_id=each.input_run_id) for each in run.inputs]
    plain = ("id", "name", "kind", "state", "pipeline_id", "pinned", "attempt", "result")
    times = ("created_at", "queued_at", "started_at", "finished_at")
    return {name: getattr(run, name) for name in plain + times} | {
        "progress": progress,
        "error": error,
        "inputs": sorted(inputs, key=lambda each: each.role),
    }


def run_summary(run: Run) -> RunSummary:
    """The run as lists show it."""
    return RunSummary(**_summary_fields(run))


def run_detail(session: Session, run: Run) -> RunDetail:
    """The run as its own page shows it, with its worker and its relatives."""
    worker = session.get(Worker, run.worker_id) if run.worker_id else None
    return RunDetail(
        **_summary_fields(run),
        config=run.config,
        worker=worker
        and RunWorker(id=worker.id, hostname=worker.hostname, device_name=worker.device_name),
        recovering=RunState(run.state) not in FINAL and _was_lost(run),
        checkpoint_step=run.checkpoint_step,
        lineage=Lineage(
            ancestors=_relatives(session, run.id, ancestors=True),
            descendants=_relatives(session, run.id, ancestors=False),
        ),
        last_seq=run.event_seq,
        files_removed_at=run.files_removed_at,
    )


def _was_lost(run: Run) -> bool:
    # Taken up again, or taken back and waiting to be: `attempt` counts the times it was taken up.
    taken_up_before = 1 if run.state in (RunState.RUNNING, RunState.CANCELLING) else 0
    return run.attempt > taken_up_before


def _relatives(session: Session, run_id: str, *, ancestors: bool) -> list[LineageRun]:
    """Breadth first, nearest first, each run once, at most `MAX_LINEAGE`."""
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
    items = [
        LogEntry(
            seq=row.seq, time=row.time, level=row.level, message=row.message, attempt=row.attempt
        )
        for row in (reversed(rows) if newest_first else rows)
    ]
    more = not newest_first and len(items) == limit
    return RunLog(items=items, last_seq=items[-1].seq if more else max(since, run.event_seq))
