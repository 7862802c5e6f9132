"""The roll of workers: signing in and out; only for people to read."""

import os
import socket
from datetime import timedelta

from sqlalchemy import delete, update

from app.db import Database, new_id, utc_now
from app.workers.models import Worker
from kdcore import __version__
from worker.devices import Device

KEEP_GONE = timedelta(days=7)


def register(db: Database, device: Device) -> str:
    """Enter this process, one device; returns the worker's id. Forgets those long gone."""
    worker_id = new_id()
    with db.write() as session:
        session.execute(delete(Worker).where(Worker.seen_at < utc_now() - KEEP_GONE))
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
    """Note that this worker left in good order, and why unless it was told to."""
    values: dict[str, object] = {"stopped_at": utc_now()}
    if reason is not None:
        values["note"] = reason
    with db.write() as session:
        session.execute(update(Worker).where(Worker.id == worker_id).values(values))
