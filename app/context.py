"""The services that endpoints use: settings, database, job queue, store, streams, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

if TYPE_CHECKING:  # they import the context themselves
    from anyio import CapacityLimiter

    from app.db import Database
    from app.monitoring.prometheus import Telemetry
    from app.queue import JobQueue
    from app.runs.live.hub import StreamHub
    from app.runs.verified_reader import VerifiedReader
    from app.settings import Settings
    from app.storage import Store
    from app.web.limits import Budget
    from app.workers.heartbeat_age import HeartbeatAges


@dataclass(frozen=True)
class Context:
    """The services of one API process, created once by `create_app`."""

    settings: Settings
    db: Database
    job_queue: JobQueue
    store: Store
    reader: VerifiedReader
    streams: StreamHub
    telemetry: Telemetry
    heartbeat_ages: HeartbeatAges
    bodies: Budget
    """Bytes of request bodies in memory."""
    uploads: Budget
    """Uploads in progress, including those waiting for inspection."""
    checks: CapacityLimiter
    """Threads that inspect uploads, separate from those that serve requests."""


def get_context(request: Request) -> Context:
    """The context of the application that serves this request."""
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(get_context)]
