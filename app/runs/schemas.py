"""Request and response bodies of runs; knows no table."""

from datetime import datetime
from typing import Any

from pydantic import Field

from app.runs.states import RunState
from app.schemas import Id, Name, Schema, Sha256
from kdcore.config import Kind, PipelineConfig, RunConfig
from kdcore.presets import preset

TEACHER = preset("small-teacher").config.model_dump(mode="json")
PIPELINE = preset("demo").config.model_dump(mode="json")


class SubmitRun(Schema):
    """A run to train."""

    name: Name | None = None
    """Name; generated from the settings if empty."""
    config: RunConfig = Field(examples=[TEACHER])
    """Configuration."""


class SubmitPipeline(Schema):
    """A pipeline of teacher, prune and distill."""

    name: Name | None = None
    """Common name of the three runs; generated from the settings if empty."""
    config: PipelineConfig = Field(examples=[PIPELINE])
    """Configuration."""


class ChangeRun(Schema):
    """Changes of a run; omitted fields stay as they are."""

    name: Name | None = None
    """New name."""
    pinned: bool | None = None
    """Exclude its files from cleanup, and refuse to delete the run."""


class Progress(Schema):
    """Progress of the current phase."""

    phase: str = Field(examples=["training"])
    """Such as `tokenising`, `training`, `evaluating`."""
    done: float = Field(examples=[120])
    """Units done."""
    total: float | None = Field(examples=[900])
    """Units in total; null while unknown."""
    unit: str | None = Field(examples=["steps"])
    """The unit."""
    eta_s: float | None = Field(examples=[94])
    """Seconds left in this phase; null while unknown."""


class RunError(Schema):
    """Why a run failed or was skipped."""

    code: str
    """`config`, `data`, `nan`, `oom_device`, `oom_host`, `disk_full`, `device_lost`,
    `worker_lost`, `internal`; `skipped` for a run that could not start."""
    message: str
    """The reason."""


class RunInputRef(Schema):
    """A run that this run depends on."""

    role: str = Field(examples=["teacher"])
    """`teacher`, `student` or `model`: the config field that refers to it."""
    run_id: Id
    """The input run."""


class RunSummary(Schema):
    """A run as lists show it."""

    id: Id
    name: str = Field(examples=["demo teacher"])
    kind: Kind
    state: RunState = Field(examples=["succeeded"])
    pipeline_id: Id | None
    """Shared by the runs that were submitted as one pipeline."""
    pinned: bool
    """Its files are excluded from cleanup."""
    attempt: int
    """Number of times a worker has claimed the run."""
    progress: Progress | None = Field(examples=[None])
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None = Field(examples=[{"eval_loss": 2.31}])
    """Results of the finished run: losses, parameters, speed."""
    error: RunError | None = Field(examples=[None])
    inputs: list[RunInputRef]


class RunWorker(Schema):
    """The worker that executes the run, or did so last."""

    id: Id
    hostname: str = Field(examples=["gpu-1"])
    device_name: str = Field(examples=["NVIDIA H100"])


class LineageRun(Schema):
    """A run related to this one."""

    role: str = Field(examples=["teacher"])
    """Role in the relation: `teacher`, `student` or `model`."""
    id: Id
    name: str = Field(examples=["demo teacher"])
    kind: Kind
    state: RunState = Field(examples=["succeeded"])


class Lineage(Schema):
    """The runs that a run depends on, and those that depend on it."""

    ancestors: list[LineageRun]
    """Nearest first."""
    descendants: list[LineageRun]
    """Nearest first."""


class RunDetail(RunSummary):
    """A run with all details."""

    config: dict[str, Any] = Field(examples=[TEACHER])
    """The config as it was submitted, with all defaults filled in."""
    worker: RunWorker | None
    recovering: bool
    """An earlier attempt was lost; the run will resume or has resumed."""
    checkpoint_step: int | None
    """Step of the newest checkpoint."""
    lineage: Lineage
    last_seq: int
    """Sequence number of the newest metric point or log line."""
    files_removed_at: datetime | None = Field(examples=[None])
    """When cleanup removed its files; null if they exist."""


class RunList(Schema):
    """One page of runs, newest first."""

    items: list[RunSummary]
    total: int
    """Number of matches on all pages."""


class PipelineRuns(Schema):
    """The three runs of a pipeline: teacher, prune, distill."""

    pipeline_id: Id
    runs: list[RunDetail]


class Series(Schema):
    """The values of one metric."""

    name: str = Field(examples=["loss"])
    """Such as `loss` or `eval/perplexity`."""
    steps: list[int] = Field(examples=[[10, 20, 30]])
    """Optimizer steps, ascending."""
    values: list[float | None] = Field(examples=[[9.1, 8.4, None]])
    """The value at each step; null where it was not finite."""


class RunMetrics(Schema):
    """The metrics of a run."""

    series: list[Series]
    last_seq: int
    """Pass this as `since` to get only newer entries."""
    sampled: bool
    """Some series was reduced to the extremes of its buckets."""


class LogEntry(Schema):
    """One log line of a run."""

    seq: int
    time: datetime
    level: str = Field(examples=["info"])
    """`info`, `warning` or `error`."""
    message: str = Field(examples=["checkpoint saved"])
    attempt: int


class RunLog(Schema):
    """Log lines of a run, oldest first."""

    items: list[LogEntry]
    last_seq: int
    """Pass this as `since` to get only newer entries."""


class ArtifactFile(Schema):
    """One file of a finished run."""

    path: str = Field(examples=["model.safetensors"])
    """Relative to the checkpoint folder."""
    size_bytes: int = Field(examples=[21_034_552])
    sha256: Sha256
    content_type: str = Field(examples=["application/octet-stream"])


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
    """Data of the `end` event, the last one of a stream."""

    state: RunState | None
    """The final state; null if the run was deleted."""
