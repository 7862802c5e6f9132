"""Turns a trainer's events into rows: metric points, log lines, progress; changes no state.

The position up to which the trainer's files have been read is stored in the same transaction as
the rows, so that each point becomes a row exactly once, even after a crash.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from app.db import utc_now
from app.runs.models import LogLine, MetricPoint, Run
from app.runs.states import ACTIVE
from app.runs.transitions import StaleAttempt
from kdcore.events import CheckpointSaved, Event, Log, Metrics, Progress, RunStarted


@dataclass(frozen=True)
class Position:
    """How far the files of one attempt have been read, in bytes."""

    attempt: int
    events: int = 0
    stderr: int = 0


def position_of(run: Run) -> Position:
    """How far the run's files have become rows."""
    return Position(run.tail_attempt, run.tail_offset, run.stderr_offset)


def append_events(
    session: Session,
    run_id: str,
    attempt: int,
    events: Sequence[Event],
    *,
    before: Position,
    after: Position,
) -> int:
    """Store the events between two positions; returns how many sequence numbers that took.

    `attempt` owns the run; the rows are labelled with the attempt whose files were read. Raises
    StaleAttempt if the attempt has lost the run, or if `before` is not where the rows end: read
    the run's row again then, since a commit may have succeeded although its reply was lost.
    """
    rows = [event for event in events if isinstance(event, Metrics | Log)]
    values = _run_values(events, current=before.attempt == attempt)
    statement = (
        update(Run)
        .where(
            Run.id == run_id,
            Run.attempt == attempt,
            Run.state.in_(ACTIVE),
            Run.tail_attempt == before.attempt,
            Run.tail_offset == before.events,
            Run.stderr_offset == before.stderr,
        )
        .values(
            tail_attempt=after.attempt,
            tail_offset=after.events,
            stderr_offset=after.stderr,
            event_seq=Run.event_seq + len(rows),
            version=Run.version + (1 if rows or values else 0),
            **values,
        )
        .execution_options(synchronize_session=False)
        .returning(Run.event_seq)
    )
    last_seq = session.execute(statement).scalar_one_or_none()
    if last_seq is None:
        raise StaleAttempt(run_id, attempt)
    first_seq = last_seq - len(rows) + 1
    of_attempt = {"run_id": run_id, "attempt": before.attempt}
    points, lines = [], []
    for seq, event in enumerate(rows, first_seq):
        if isinstance(event, Metrics):
            for name, value in event.values.items():
                point = {"seq": seq, "name": name, "step": event.step, "value": value}
                points.append(of_attempt | point)
        else:
            line = {"seq": seq, "level": event.level, "message": event.message}
            lines.append(of_attempt | line | {"time": _time(event)})
    if points:
        session.execute(insert(MetricPoint), points)
    if lines:
        session.execute(insert(LogLine), lines)
    return len(rows)


def _time(event: Log) -> datetime:
    seconds = event.time_s
    if seconds is None or not 0 < seconds < 4e9:
        return utc_now()
    return datetime.fromtimestamp(seconds, UTC)


def _run_values(events: Sequence[Event], *, current: bool) -> dict[str, Any]:
    """Columns of the run that the events change; of an earlier attempt, only its checkpoint."""
    values: dict[str, Any] = {}
    for event in events:
        match event:
            case CheckpointSaved():
                values["checkpoint_step"] = event.step
            case Progress() if current:
                values |= {
                    "phase": event.phase[:32],
                    "progress_done": event.done,
                    "progress_total": event.total,
                    "progress_unit": (event.unit or "")[:32] or None,
                    "eta_s": event.eta_s,
                }
            case RunStarted() if current:
                values["environment"] = {"versions": event.versions, "device": event.device}
    if not current and "checkpoint_step" in values:
        # The claim came first: this checkpoint is where the new attempt starts, not its progress.
        values["claimed_checkpoint_step"] = values["checkpoint_step"]
    return values
