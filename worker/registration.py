"""Registers workers in the database; for display only."""

import os
import socket
from datetime import timedelta

from sqlalchemy import delete, update

from app.db import Database, new_id, utc_now
from app.workers.models import Worker
from kdcore import __version__
from worker.devices import Device

KEEP_SILENT = timedelta(days=7)


def register(db: Database, device: Device) -> str:
    """Register this process with its device; returns the worker's id. Deletes old entries."""
    worker_id = new_id()
    with db.write() as session:
        session.execute(delete(Worker).where(Worker.seen_at < utc_now() - KEEP_SILENT))
        session.add(
            Worker(
                id=worker_id,
                hostname=socket.gethostname()[:255],
                pid=os.getpid(),
                device=device.id,
                device_name=device.name[:255],
                memory_bytes=device.memory_bytes,
                version=__version__,
                note=device.note,
            )
        )
    return worker_id


def deregister(db: Database, worker_id: str, reason: str | None = None) -> None:
    """Record that this worker stopped, and why unless it was asked to."""
    values: dict[str, object] = {"stopped_at": utc_now()}
    if reason is not None:
        values["note"] = reason
    with db.write() as session:
        session.execute(update(Worker).where(Worker.id == worker_id).values(values))
