"""What clients are told about workers."""

from datetime import datetime
from typing import Literal

from app.schemas import Schema

WorkerState = Literal["idle", "busy", "lost", "stopped"]


class WorkerInfo(Schema):
    """One worker process; one device."""

    id: str
    hostname: str
    device: str
    """`cpu` or `cuda:0`, ..."""
    device_name: str
    memory_bytes: int | None
    """Memory of the device; null where unknown."""
    version: str
    started_at: datetime
    seen_at: datetime
    """Last sign of life."""
    state: WorkerState
    """`lost`: no sign of life for longer than the lease."""
    run_id: str | None
    """The run in hand."""
    note: str | None
    """Why it trains on the CPU although the machine has a GPU, or why it left."""


class WorkerList(Schema):
    """The workers, newest first; at most 500."""

    items: list[WorkerInfo]
    total: int
