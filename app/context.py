"""What every endpoint may reach: settings, database, doorbell, store, seals, streams, figures."""

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from app.beats import Beats
from app.db import Database
from app.limits import Budget
from app.queue import Doorbell
from app.runs.seals import Seals
from app.runs.stream import StreamHub
from app.settings import Settings
from app.storage import Store
from app.telemetry import Telemetry


@dataclass(frozen=True)
class Context:
    """The parts of one API process, made once by `create_app`."""

    settings: Settings
    db: Database
    doorbell: Doorbell
    store: Store
    seals: Seals
    streams: StreamHub
    telemetry: Telemetry
    beats: Beats
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
