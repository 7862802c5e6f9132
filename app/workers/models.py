"""The table of workers."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UtcDateTime, utc_now


class Worker(Base):
    """One worker process; one device."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(64))
    """`cpu` or `cuda:0`, ..."""
    device_name: Mapped[str] = mapped_column(String(255))
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    version: Mapped[str] = mapped_column(String(32))
    beat: Mapped[int] = mapped_column(BigInteger, default=0)
    """Heartbeat counter."""
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    """For display; no decision is based on it."""
    stopped_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """Resource usage at `seen_at`: see `worker.resource_usage`."""
    note: Mapped[str | None] = mapped_column(Text)
    """For display: why it trains on the CPU, or why it exited."""
