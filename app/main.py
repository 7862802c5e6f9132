"""The web application; imports neither torch nor the worker."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from app.auth import endpoints as auth
from app.context import Context
from app.datasets import endpoints as datasets
from app.datasets.inspection import CHECKS_AT_ONCE
from app.db import Database
from app.forms import presets
from app.forms import schema as forms
from app.idempotency import Replayed, replay
from app.monitoring import health
from app.monitoring.prometheus import Telemetry
from app.openapi.document import PROBLEMS, describe
from app.queue import JobQueue
from app.retention import endpoints as retention
from app.runs import endpoints as runs
from app.runs.live.hub import StreamHub
from app.runs.sweeper import Sweeper
from app.runs.verified_reader import VerifiedReader
from app.settings import Settings
from app.storage import Store
from app.web import error_handlers
from app.web.bodies import BodyMiddleware
from app.web.limits import Budget
from app.web.middleware import HeadMiddleware, HostMiddleware, OutermostMiddleware
from app.web.static import Frontend
from app.workers import endpoints as workers
from app.workers.heartbeat_age import HeartbeatAges
from kdcore import __version__

STOP_SWEEPER_S = 5.0
API_ROUTERS = (
    auth.router,
    runs.router,
    runs.pipelines,
    retention.router,
    datasets.router,
    forms.router,
    presets.router,
    workers.router,
)


def _operation_id(route: APIRoute) -> str:
    """The name of the function, which the generated TypeScript client uses."""
    return route.name


def _routes() -> list[BaseRoute]:
    api = APIRouter(prefix="/api/v1", responses=PROBLEMS)
    for router in API_ROUTERS:
        api.include_router(router)
    root = APIRouter(generate_unique_id_function=_operation_id)
    root.include_router(api)
    root.include_router(health.router, responses={400: PROBLEMS[400]})
    return root.routes


ROUTES = _routes()
"""Built once per process: inspecting the signatures takes longer than all else in `create_app`."""


def make_context(settings: Settings) -> Context:
    """The services of one API process; connects to nothing yet."""
    db = Database(settings.resolved_database_url)
    store = Store(settings)
    return Context(
        settings=settings,
        db=db,
        job_queue=JobQueue(settings),
        store=store,
        reader=VerifiedReader(store),
        streams=StreamHub(db, settings),
        telemetry=Telemetry(),
        heartbeat_ages=HeartbeatAges(),
        bodies=Budget(
            settings.max_held_body_bytes,
            max(settings.max_held_body_bytes // 4, settings.max_body_bytes),
        ),
        uploads=Budget(settings.max_uploads, (settings.max_uploads + 1) // 2),
        checks=CapacityLimiter(CHECKS_AT_ONCE),
    )


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; by default with the settings of the environment."""
    settings = settings or Settings()
    context = make_context(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await context.streams.start()
        sweeper = Sweeper(context.db, context.job_queue, context.settings)
        stop = threading.Event()
        # A daemon: a sweep that waits for the database must not delay the shutdown.
        thread = threading.Thread(target=sweeper.run, args=(stop,), name="sweeper", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            await context.streams.stop()
            await to_thread.run_sync(thread.join, STOP_SWEEPER_S)
            context.job_queue.close()
            context.db.close()

    app = FastAPI(
        title="Halflayer",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        redirect_slashes=False,
    )
    app.state.context = context
    app.router.routes.extend(ROUTES)
    # Not a catch-all route, which would turn a wrong method (405) into "not found".
    app.router.default = Frontend(settings)
    error_handlers.install(app)
    app.add_exception_handler(Replayed, replay)
    describe(app)
    # Added last, run first. All but the outermost see a HEAD as a GET.
    app.add_middleware(HostMiddleware, allowed_hosts=settings.accepted_hosts)
    app.add_middleware(BodyMiddleware)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(OutermostMiddleware, telemetry=context.telemetry)
    return app
