"""Turns a trainer's events into rows: metric points, log lines, progress; changes no state.

The place up to which the trainer's files have been read is stored in the transaction that stores
the rows, so that each point becomes a row once, whatever dies in between.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from app.db import utc_now
from app.runs.models import MAX_MESSAGE_CHARS, LogLine, MetricPoint, Run
from app.runs.states import ACTIVE
from app.runs.transitions import StaleAttempt
from kdcore.events import Event

MAX_NAME_CHARS = 64
MAX_STEP = 2**62
LEVELS = frozenset({"info", "warning", "error"})


@dataclass(frozen=True)
class Position:
    """How far the files of one attempt have been read, in bytes."""

    attempt: int
    events: int = 0
    stderr: int = 0


def clean_text(text: object, limit: int = MAX_MESSAGE_CHARS) -> str:
    """`text` as any database takes it: no NUL, no lone surrogates, bounded."""
    words = str(text)[:limit].replace("\0", "�")
    return words.encode("utf-8", "replace").decode("utf-8")


def position_of(run: Run) -> Position:
    """How far the run's files have become rows."""
    return Position(run.tail_attempt, run.tail_offset, run.stderr_offset)


def append_events(
    session: Session,
    run_id: str,
    attempt: int,
    events: list[Event],
    *,
    before: Position,
    after: Position,
) -> int:
    """Store what lies between two positions; returns how many sequence numbers that took.

    `attempt` owns the run; the rows are labelled with the attempt whose files were read. Raises
    StaleAttempt if the attempt has lost the run, or if `before` is not where the rows end: look
    at the row again then, for a commit may have worked although its answer was lost.
    """
    rows = [event for event in events if event.get("type") in ("metrics", "log")]
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
    points = [
        {"run_id": run_id, "seq": seq, "attempt": before.attempt, **point}
        for seq, event in enumerate(rows, first_seq)
        if event["type"] == "metrics"
        for point in _points(event)
    ]
    lines = [
        {"run_id": run_id, "seq": seq, "attempt": before.attempt, **_line(event)}
        for seq, event in enumerate(rows, first_seq)
        if event["type"] == "log"
    ]
    if points:
        session.execute(insert(MetricPoint), points)
    if lines:
        session.execute(insert(LogLine), lines)
    return len(rows)


def problem_with(event: Event) -> str | None:
    """Why an event cannot be stored, in words; None if it can."""
    kind = event.get("type")
    if kind == "metrics":
        values = event.get("values")
        if not _is_step(event.get("step")):
            return "its step is not a number of updates"
        if not isinstance(values, dict) or not all(
            0 < len(name) <= MAX_NAME_CHARS and _is_value(value) for name, value in values.items()
        ):
            return "its values are not named numbers"
    elif kind == "checkpoint" and not _is_step(event.get("step")):
        return "its step is not a number of updates"
    elif kind == "progress" and not (_is_value(event.get("done")) and event.get("phase")):
        return "it lacks a phase or a number"
    return None


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STEP


def _is_value(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: object) -> float | None:
    """A finite float; None for everything else, such as an integer too large for one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _points(event: Event) -> Iterator[dict[str, Any]]:
    for name, value in event["values"].items():
        yield {"name": clean_text(name), "step": event["step"], "value": _number(value)}


def _line(event: Event) -> dict[str, Any]:
    level = event.get("level")
    return {
        "time": _time(event),
        "level": level if level in LEVELS else "info",
        "message": clean_text(event.get("message", "")),
    }


def _time(event: Event) -> datetime:
    seconds = _number(event.get("time_s"))
    if seconds is None or not 0 < seconds < 4e9:
        return utc_now()
    return datetime.fromtimestamp(seconds, UTC)


def _run_values(events: list[Event], *, current: bool) -> dict[str, Any]:
    """Columns of the run that the events change; of an earlier attempt, only its checkpoint."""
    values: dict[str, Any] = {}
    for event in events:
        match event.get("type"):
            case "checkpoint":
                values["checkpoint_step"] = event["step"]
            case "progress" if current:
                values |= {
                    "phase": clean_text(event["phase"], 32),
                    "progress_done": _number(event.get("done")),
                    "progress_total": _number(event.get("total")),
                    "progress_unit": clean_text(event.get("unit") or "", 32) or None,
                    "eta_s": _number(event.get("eta_s")),
                }
            case "started" if current:
                values["environment"] = {
                    "versions": event.get("versions"),
                    "device": event.get("device"),
                }
    if not current and "checkpoint_step" in values:
        # The claim came first: this checkpoint is where the new attempt starts, not its progress.
        values["claimed_checkpoint_step"] = values["checkpoint_step"]
    return values
