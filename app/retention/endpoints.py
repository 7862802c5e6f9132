"""Retention over HTTP: what may go, and its going."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.auth.dependencies import GuardedRoute, needs_admin, needs_read
from app.context import Ctx
from app.retention.schemas import MAX_DAYS, MAX_KEPT, RemovableFiles, RetentionPlan, TidyUp
from app.retention.service import Policy, Removable, plan, tidy

router = APIRouter(prefix="/retention", tags=["runs"], route_class=GuardedRoute)

KeepLast = Annotated[
    int | None, Query(ge=1, le=MAX_KEPT, description="Results of each kind to keep.")
]
OlderThan = Annotated[
    float | None, Query(ge=0, le=MAX_DAYS, description="Only what ended so many days ago.")
]


@router.get("", dependencies=[Depends(needs_read)])
def get_retention_plan(
    ctx: Ctx, keep_last: KeepLast = None, older_than_days: OlderThan = None
) -> RetentionPlan:
    """What a policy would let go, oldest first; removes nothing.

    Without a limit only what ended runs left in the work folder is listed, no result.
    """
    with ctx.db.read() as session:
        return _shown(plan(session, ctx.settings, Policy(keep_last, older_than_days)))


@router.post("", dependencies=[Depends(needs_admin)])
def tidy_up(body: TidyUp, ctx: Ctx) -> RetentionPlan:
    """Remove what the policy lets go of the named runs; answers what went. It cannot be undone."""
    policy = Policy(body.keep_last, body.older_than_days)
    return _shown(tidy(ctx.db, ctx.settings, ctx.store, policy, set(body.run_ids)))


def _shown(found: list[Removable]) -> RetentionPlan:
    return RetentionPlan(
        items=[RemovableFiles.model_validate(each, from_attributes=True) for each in found],
        total=len(found),
        size_bytes=sum(each.size_bytes for each in found),
    )
