"""Lists the workers over HTTP; changes nothing."""

from fastapi import APIRouter, Depends

from app.auth.dependencies import GuardedRoute, needs_read
from app.context import Ctx
from app.workers.schemas import WorkerList
from app.workers.service import worker_infos

router = APIRouter(
    prefix="/workers",
    tags=["workers"],
    dependencies=[Depends(needs_read)],
    route_class=GuardedRoute,
)


@router.get("")
def list_workers(ctx: Ctx) -> WorkerList:
    """All registered workers, newest first, with the run that each executes."""
    with ctx.db.read() as session:
        items = worker_infos(session, ctx.settings.lease_s)
    return WorkerList(items=items, total=len(items))
