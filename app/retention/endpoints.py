"""Retention over HTTP: lists and removes files of ended runs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.auth.dependencies import GuardedRoute, needs_admin, needs_read
from app.context import Ctx
from app.retention.schemas import MAX_DAYS, MAX_KEPT, Cleanup, RemovableFiles, RetentionPlan
from app.retention.service import Policy, Removable, plan, remove_files

router = APIRouter(prefix="/retention", tags=["runs"], route_class=GuardedRoute)

KeepLast = Annotated[
    int | None,
    Query(ge=1, le=MAX_KEPT, examples=[3], description="Results of each kind to keep."),
]
OlderThan = Annotated[
    float | None,
    Query(ge=0, le=MAX_DAYS, examples=[30], description="Only runs that ended N days ago."),
]


@router.get("", dependencies=[Depends(needs_read)])
def get_retention_plan(
    ctx: Ctx, keep_last: KeepLast = None, older_than_days: OlderThan = None
) -> RetentionPlan:
    """The files that a policy would remove, oldest first; removes nothing.

    Without a limit only work folders of ended runs are listed, not results.
    """
    with ctx.db.read() as session:
        return _shown(plan(session, ctx.settings, Policy(keep_last, older_than_days)))


@router.post("", dependencies=[Depends(needs_admin)])
def clean_up(body: Cleanup, ctx: Ctx) -> RetentionPlan:
    """Remove the files that the policy selects from the named runs. This cannot be undone."""
    policy = Policy(body.keep_last, body.older_than_days)
    return _shown(remove_files(ctx.db, ctx.settings, ctx.store, policy, set(body.run_ids)))


def _shown(found: list[Removable]) -> RetentionPlan:
    return RetentionPlan(
        items=[RemovableFiles.model_validate(each, from_attributes=True) for each in found],
        total=len(found),
        size_bytes=sum(each.size_bytes for each in found),
    )
