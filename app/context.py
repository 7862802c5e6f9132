"""What every endpoint may reach: settings, database, doorbell, store, seals, streams, figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

if TYPE_CHECKING:  # the parts know the context, so it does not import them
    from anyio import CapacityLimiter

    from app.db import Database
    from app.monitoring.prometheus import Telemetry
    from app.queue import JobQueue
    from app.runs.live.hub import StreamHub
    from app.runs.seals import Seals
    from app.settings import Settings
    from app.storage import Store
    from app.web.limits import Budget
    from app.workers.heartbeat_age import HeartbeatAges


@dataclass(frozen=True)
class Context:
    """The parts of one API process, made once by `create_app`."""

    settings: Settings
    db: Database
    job_queue: JobQueue
    store: Store
    seals: Seals
    streams: StreamHub
    telemetry: Telemetry
    beats: HeartbeatAges
    bodies: Budget
    """Bytes of bodies in memory."""
    uploads: Budget
    """Uploads that arrive, wait for their check, or are checked."""
    checks: CapacityLimiter
    """Threads that check uploads: apart from those that answer requests."""


def get_context(request: Request) -> Context:
    """The context of the application that serves this request."""
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(get_context)]
