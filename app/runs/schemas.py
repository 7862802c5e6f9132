"""Request and response bodies of runs; knows no table."""

from datetime import datetime
from typing import Any

from pydantic import Field

from app.runs.states import RunState
from app.schemas import Name, Schema
from kdcore.config import Kind, PipelineConfig, RunConfig

Scalar = float | int | str | bool | None


class SubmitRun(Schema):
    """A run to train."""

    name: Name | None = None
    """What to call it; empty lets the server find a name."""
    config: RunConfig
    """What to do."""


class SubmitPipeline(Schema):
    """Teacher, prune and distil, linked, in one go."""

    name: Name | None = None
    """What to call the three runs; empty lets the server find a name."""
    config: PipelineConfig
    """What to do."""


class ChangeRun(Schema):
    """What shall be different about a run; what is not given stays."""

    name: Name | None = None
    """What to call it from now on."""
    pinned: bool | None = None
    """Keep its files whatever is tidied up, and refuse to delete it."""


class Progress(Schema):
    """How far the present phase has come."""

    phase: str
    """For instance `tokenising`, `training`, `evaluating`."""
    done: float
    """So many units are done."""
    total: float | None
    """Of so many; null while unknown."""
    unit: str | None
    """What is counted."""
    eta_s: float | None
    """Seconds left in this phase; null while unknown."""


class RunError(Schema):
    """Why a run failed or was skipped."""

    code: str
    """`config`, `data`, `nan`, `oom_device`, `oom_host`, `disk_full`, `device_lost`,
    `worker_lost`, `internal`; `skipped` for a run that could not start."""
    message: str
    """The reason in words."""


class RunInputRef(Schema):
    """A run that this run starts from."""

    role: str
    """`teacher`, `student` or `model`: the config field that names it."""
    run_id: str
    """The input run."""


class RunSummary(Schema):
    """A run as lists show it."""

    id: str
    name: str
    kind: Kind
    state: RunState
    pipeline_id: str | None
    """Shared by the runs that were submitted as one pipeline."""
    pinned: bool
    """Its files are never tidied up."""
    attempt: int
    """Rises each time a worker takes the run up; 0 before the first time."""
    progress: Progress | None
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None
    """Figures of the finished run: losses, parameters, speed."""
    error: RunError | None
    inputs: list[RunInputRef]


class RunWorker(Schema):
    """The worker that has the run, or had it last."""

    id: str
    hostname: str
    device_name: str


class LineageRun(Schema):
    """A run related to this one."""

    role: str
    """What it is, or was made from, in the relation: `teacher`, `student` or `model`."""
    id: str
    name: str
    kind: Kind
    state: RunState


class Lineage(Schema):
    """Where a run comes from, and what was made from it."""

    ancestors: list[LineageRun]
    """Nearest first."""
    descendants: list[LineageRun]
    """Nearest first."""


class RunDetail(RunSummary):
    """A run with everything that its page shows."""

    config: dict[str, Any]
    """The config as it was submitted, with all defaults filled in."""
    worker: RunWorker | None
    recovering: bool
    """An earlier attempt was lost; the run waits to resume, or has resumed."""
    checkpoint_step: int | None
    """Last update that a checkpoint holds."""
    lineage: Lineage
    last_seq: int
    """Sequence number of the newest metric point or log line."""
    files_removed_at: datetime | None
    """When its files were tidied up; null if they were not."""


class RunList(Schema):
    """One page of runs, newest first."""

    items: list[RunSummary]
    total: int
    """How many match, on all pages."""


class PipelineRuns(Schema):
    """The three runs of a pipeline: teacher, prune, distil."""

    pipeline_id: str
    runs: list[RunDetail]


class Series(Schema):
    """One curve."""

    name: str
    """For instance `loss` or `eval/perplexity`."""
    steps: list[int]
    """Updates, rising."""
    values: list[float | None]
    """The value at each step; null where it was not finite."""


class RunMetrics(Schema):
    """The curves of a run."""

    series: list[Series]
    last_seq: int
    """Give this as `since` to get only what is newer."""
    sampled: bool
    """Some curve was too long and is shown as the extremes of its buckets."""


class LogEntry(Schema):
    """One line of a run's log."""

    seq: int
    time: datetime
    level: str
    """`info`, `warning` or `error`."""
    message: str
    attempt: int


class RunLog(Schema):
    """A piece of a run's log, oldest line first."""

    items: list[LogEntry]
    last_seq: int
    """Give this as `since` to get only what is newer."""


class ArtifactFile(Schema):
    """One file of a finished run."""

    path: str
    """Relative to the checkpoint folder."""
    size_bytes: int
    sha256: str
    content_type: str


class ArtifactList(Schema):
    """All files of a finished run."""

    items: list[ArtifactFile]
    total: int


class MetricsEvent(Schema):
    """Data of a `metrics` event: the values of one step."""

    step: int
    attempt: int
    values: dict[str, float | None] = Field(default_factory=dict)


class LogEvent(Schema):
    """Data of a `log` event."""

    time: datetime
    level: str
    message: str


class EndEvent(Schema):
    """Data of the `end` event, after which nothing follows."""

    state: RunState | None
    """The final state; null if the run was deleted."""
