"""Response bodies of workers."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.schemas import Id, Schema

WorkerState = Literal["idle", "busy", "lost", "stopped"]


class WorkerInfo(Schema):
    """One worker process; one device."""

    id: Id
    hostname: str = Field(examples=["gpu-1"])
    device: str = Field(examples=["cuda:0"])
    """`cpu` or `cuda:0`, ..."""
    device_name: str = Field(examples=["NVIDIA H100"])
    memory_bytes: int | None = Field(examples=[85_899_345_920])
    """Memory of the device; null where unknown."""
    version: str = Field(examples=["0.1.0"])
    started_at: datetime
    seen_at: datetime
    """Last heartbeat."""
    state: WorkerState = Field(examples=["busy"])
    """`lost`: no heartbeat for longer than the lease."""
    run_id: Id | None
    """The run that it is executing."""
    note: str | None = Field(examples=[None])
    """Why it trains on the CPU although there is a GPU, or why it exited."""


class WorkerList(Schema):
    """The workers, newest first; at most 500."""

    items: list[WorkerInfo]
    total: int
