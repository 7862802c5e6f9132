"""Tables of runs: the runs, their inputs, metric points, log lines and artifacts."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, UtcDateTime, utc_now


class Run(Base):
    """One run; its row is the source of truth, the queue carries only its id.

    `state`, `attempt`, `beat` and the tail are written by `app.runs.transitions`, `lifecycle`
    and `ingest` only: every write there is fenced.
    """

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16), index=True)
    """`teacher`, `prune` or `distill`."""
    state: Mapped[str] = mapped_column(String(16), index=True)
    """A value of `RunState`."""
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    shape: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """`ModelShape` of the result: expected until it succeeds, then read from the checkpoint; None
    while it cannot be known (a hub checkpoint)."""
    pipeline_id: Mapped[str | None] = mapped_column(String(12), index=True)
    """Shared by the runs that were submitted as one pipeline."""

    attempt: Mapped[int] = mapped_column(default=0)
    """Incremented at every claim; fences writes of earlier attempts."""
    worker_id: Mapped[str | None] = mapped_column(String(12))
    beat: Mapped[int] = mapped_column(BigInteger, default=0)
    """Heartbeat counter of the worker; the sweeper recovers runs whose counter stands still."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    """No longer used; a later release drops the column (docs/adr/0010)."""
    attempts_without_progress: Mapped[int] = mapped_column(default=0)
    checkpoint_step: Mapped[int | None] = mapped_column(BigInteger)
    claimed_checkpoint_step: Mapped[int | None] = mapped_column(BigInteger)
    """`checkpoint_step` at the last claim: no newer one at recovery means no progress."""

    phase: Mapped[str | None] = mapped_column(String(32))
    progress_done: Mapped[float | None]
    progress_total: Mapped[float | None]
    progress_unit: Mapped[str | None] = mapped_column(String(32))
    eta_s: Mapped[float | None]

    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    environment: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What the last attempt ran on: `versions` and `device`."""
    error_code: Mapped[str | None] = mapped_column(String(16))
    error_message: Mapped[str | None] = mapped_column(Text)

    tail_attempt: Mapped[int] = mapped_column(default=0)
    """The attempt whose files the two offsets count in; a new attempt first reads the rest of
    its predecessor's, since a resumed trainer does not repeat what precedes its checkpoint."""
    tail_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of events.jsonl of that attempt that are stored in rows."""
    stderr_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of stderr.log of that attempt that are stored in rows."""
    event_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    """Last sequence number of a metric point or log line of this run."""
    version: Mapped[int] = mapped_column(BigInteger, default=0)
    """Incremented at every visible change, so that streams send the run again."""

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    queued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    pinned: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Its files are excluded from cleanup, and the run cannot be deleted."""
    files_removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When cleanup removed its published files; it cannot be an input any more."""

    inputs: Mapped[list["RunInput"]] = relationship(
        foreign_keys="RunInput.run_id", cascade="all, delete-orphan", lazy="selectin"
    )


class RunInput(Base):
    """`run_id` uses the result of `input_run_id` in the given role."""

    __tablename__ = "run_inputs"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16), primary_key=True)
    """`teacher`, `student` or `model`: the config field that names the input."""
    input_run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)


class MetricPoint(Base):
    """One value of one metric. For the same step, the row of the latest attempt counts."""

    __tablename__ = "metric_points"
    __table_args__ = (Index("ix_metric_points_run_name_step", "run_id", "name", "step"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int]
    step: Mapped[int] = mapped_column(BigInteger)
    value: Mapped[float | None]
    """None where the value was not finite."""


class LogLine(Base):
    __tablename__ = "log_lines"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int]
    time: Mapped[datetime] = mapped_column(UtcDateTime)
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)


class Artifact(Base):
    """One published file of a run; the row is written after the file is complete in the store."""

    __tablename__ = "artifacts"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    """Relative to the checkpoint folder, with forward slashes, for instance `model.safetensors`."""
    attempt: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    storage_key: Mapped[str] = mapped_column(String(255))
    """Key in the store; never shown to clients."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


@dataclass(frozen=True)
class PublishedFile:
    """One file of a result that is complete in the store."""

    path: str
    size_bytes: int
    sha256: str
    storage_key: str
