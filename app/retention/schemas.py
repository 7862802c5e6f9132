"""What retention is asked over HTTP, and what it answers."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.runs.states import RunState
from app.schemas import ID_PATTERN, Schema
from kdcore.config import Kind

What = Literal["result", "work"]
MAX_KEPT = 1_000_000


MAX_DAYS = 36_500


class RemovableFiles(Schema):
    """Files of one ended run that a policy lets go."""

    run_id: str
    name: str
    kind: Kind
    state: RunState
    finished_at: datetime | None
    what: What
    """`result`: its published files; `work`: what its trainer left behind."""
    size_bytes: int


class RetentionPlan(Schema):
    """What may go, oldest first."""

    items: list[RemovableFiles]
    total: int
    size_bytes: int
    """Of all of them."""


class TidyUp(Schema):
    """A policy, and the runs whose files it may remove."""

    keep_last: int | None = Field(default=None, ge=1, le=MAX_KEPT)
    """Results of each kind to keep, newest first."""
    older_than_days: float | None = Field(default=None, ge=0, le=MAX_DAYS)
    """Only what ended longer ago than this goes."""
    run_ids: list[Annotated[str, StringConstraints(pattern=ID_PATTERN)]] = Field(max_length=10_000)
    """As the plan listed them; of other runs nothing goes."""
