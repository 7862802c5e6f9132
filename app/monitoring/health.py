"""Liveness, readiness and Prometheus metrics; changes nothing."""

import logging
import shutil
from typing import Literal

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, Metric
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.auth.dependencies import GuardedRoute, needs_read
from app.context import Context, Ctx
from app.db import utc_now
from app.monitoring.prometheus import counter, gauge, labelled_gauge
from app.openapi.document import PROBLEMS
from app.runs.models import Run
from app.runs.states import RunState
from app.schemas import Schema
from app.storage import MIN_FREE_BYTES
from app.workers.service import count_by_state, worker_metrics
from kdcore import __version__

logger = logging.getLogger(__name__)
router = APIRouter(tags=["health"], route_class=GuardedRoute)

Check = Literal["ok", "failed"]
EXAMPLE = 'halflayer_runs{state="queued"} 0.0\n'


class Health(Schema):
    """The process responds."""

    status: Literal["ok"]


class Readiness(Schema):
    """Whether the server is ready."""

    status: Literal["ready", "degraded", "unready"]
    """`degraded`: without the broker, runs are accepted and start once it is back."""
    database: Check
    broker: Check
    disk: Check


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process is alive; checks nothing else."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready"}})
def readyz(ctx: Ctx, response: Response) -> Readiness:
    """Whether database, broker and disk are available; 503 if the server is not ready."""
    database = _check_database(ctx)
    broker: Check = "ok" if ctx.job_queue.ping() else "failed"
    disk = _check_disk(ctx)
    status: Literal["ready", "degraded", "unready"] = "ready"
    if "failed" in (database, disk):
        status = "unready"
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    elif broker == "failed":
        status = "degraded"
    return Readiness(status=status, database=database, broker=broker, disk=disk)


@router.get(
    "/metrics",
    dependencies=[Depends(needs_read)],
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string", "examples": [EXAMPLE]}}}},
        **{status: PROBLEMS[status] for status in (401, 403, 503)},
    },
)
def prometheus_metrics(ctx: Ctx) -> Response:
    """Prometheus metrics: runs, queue, workers and devices, streams, request times."""
    return Response(
        ctx.telemetry.render(_current_metrics(ctx)), headers={"content-type": CONTENT_TYPE_LATEST}
    )


def _current_metrics(ctx: Context) -> list[Metric]:
    with ctx.db.read() as session:
        counted = session.execute(select(Run.state, func.count()).group_by(Run.state)).all()
        oldest = session.scalar(select(func.min(Run.queued_at)).where(Run.state == RunState.QUEUED))
        workers = count_by_state(session, ctx.settings.lease_s)
        of_workers = worker_metrics(session, ctx.heartbeat_ages)
    runs: dict[tuple[str, ...], float] = {(state.value,): 0.0 for state in RunState}
    runs |= {(state,): float(count) for state, count in counted}
    waited_s = max(0.0, (utc_now() - oldest).total_seconds()) if oldest else 0.0
    queued = ctx.job_queue.length()
    streams = ctx.streams
    found = [
        labelled_gauge(
            "halflayer_info", "Version of this API.", ["version"], {(__version__,): 1.0}
        ),
        labelled_gauge("halflayer_runs", "Runs by state.", ["state"], runs),
        gauge(
            "halflayer_queue_oldest_seconds",
            "Time that the oldest queued run has waited.",
            waited_s,
        ),
        labelled_gauge("halflayer_workers", "Workers by state.", ["state"], workers),
        *of_workers,
        gauge("halflayer_broker_up", "Whether the broker is reachable.", float(queued is not None)),
        gauge("halflayer_streams", "Open event streams.", float(streams.clients)),
        gauge(
            "halflayer_streams_limit",
            "Maximum event streams of this API.",
            float(streams.max_clients),
        ),
        counter("halflayer_streams_refused", "Streams refused at the limit.", streams.refused),
    ]
    if queued is not None:
        found.append(gauge("halflayer_queue_length", "Jobs waiting in the broker.", float(queued)))
    free_bytes = ctx.store.free_bytes()
    if free_bytes is not None:
        found.append(gauge("halflayer_store_free_bytes", "Free store space.", float(free_bytes)))
    return found


def _check_database(ctx: Context) -> Check:
    try:
        with ctx.db.read() as session:
            # Not `SELECT 1`: an unmigrated database is not ready either.
            session.execute(select(Run.id).limit(1)).all()
    except SQLAlchemyError as error:
        logger.warning("database not ready: %s", error)
        return "failed"
    return "ok"


def _check_disk(ctx: Context) -> Check:
    try:
        free_bytes = shutil.disk_usage(ctx.settings.data_dir).free
    except OSError as error:
        logger.warning("data folder not ready: %s", error)
        return "failed"
    return "ok" if free_bytes >= MIN_FREE_BYTES else "failed"
