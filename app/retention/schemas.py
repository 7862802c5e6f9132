"""Request and response bodies of retention."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.runs.states import RunState
from app.schemas import ID_PATTERN, Id, Schema
from kdcore.config import Kind

FileCategory = Literal["result", "work"]
MAX_KEPT = 1_000_000
MAX_DAYS = 36_500


class RemovableFiles(Schema):
    """Files of one ended run that a policy would remove."""

    run_id: Id
    name: str = Field(examples=["demo teacher"])
    kind: Kind
    state: RunState = Field(examples=["succeeded"])
    finished_at: datetime | None
    what: FileCategory
    """`result`: its published files; `work`: its work folder."""
    size_bytes: int = Field(examples=[21_034_552])


class RetentionPlan(Schema):
    """Files that can be removed, oldest first."""

    items: list[RemovableFiles]
    total: int
    size_bytes: int = Field(examples=[21_034_552])
    """Total size."""


class Cleanup(Schema):
    """A policy, and the runs whose files it may remove."""

    keep_last: int | None = Field(default=None, ge=1, le=MAX_KEPT, examples=[3])
    """Results of each kind to keep, newest first."""
    older_than_days: float | None = Field(default=None, ge=0, le=MAX_DAYS, examples=[30])
    """Only runs that ended longer ago than this."""
    run_ids: list[Annotated[Id, StringConstraints(pattern=ID_PATTERN)]] = Field(max_length=10_000)
    """Run ids from the plan; files of other runs are kept."""
