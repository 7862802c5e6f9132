"""Events that a run reports, and the sinks that write them; imports no torch.

One event is one JSON object on one line of `events.jsonl`. Its `type` names one of the classes
below; `parse_event` is the only reader. `time_s` is set when the line is written. A number that is
not finite is written and read as null, so that each line is strict JSON.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from kdcore.errors import FailureCode, disk_full, is_disk_full
from kdcore.shapes import ModelShape

MAX_MESSAGE_CHARS = 8_000
MAX_STEP = 2**62


def _finite(value: object) -> object:
    try:
        return None if isinstance(value, int | float) and not math.isfinite(value) else value
    except OverflowError:  # an integer too large for a float
        return None


def _storable(text: object) -> str:
    """`text` as any database takes it: no NUL, no lone surrogates, bounded."""
    words = str(text)[:MAX_MESSAGE_CHARS].replace("\0", "�")
    return words.encode("utf-8", "replace").decode("utf-8")


def _one_of(known: object, default: str) -> Callable[[object], object]:
    """Values of a later version are read as `default`."""
    return lambda value: value if value in get_args(known) else default


Level = Literal["info", "warning", "error"]
Number = Annotated[float | None, BeforeValidator(_finite)]
Text = Annotated[str, BeforeValidator(_storable)]
Name = Annotated[Text, Field(min_length=1, max_length=64)]
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, use_attribute_docstrings=True)

    type: str
    time_s: Number = None
    """Seconds since the epoch."""


class RunStarted(_Event):
    """The first event of every attempt."""

    type: Literal["started"] = "started"
    config: dict[str, Any]
    """The config as submitted."""
    versions: dict[str, str]
    device: Text


class Progress(_Event):
    """How far a phase is; `total` and `eta_s` are None while unknown."""

    type: Literal["progress"] = "progress"
    phase: Name
    done: Number
    total: Number = None
    unit: Text | None = None
    eta_s: Number = None


class Metrics(_Event):
    """Points of the curves at one step."""

    type: Literal["metrics"] = "metrics"
    step: Step
    values: Mapping[Name, Number]


class Log(_Event):
    """A message for the user."""

    type: Literal["log"] = "log"
    level: Annotated[Level, BeforeValidator(_one_of(Level, "info"))] = "info"
    message: Text = ""


class CheckpointSaved(_Event):
    """A checkpoint to resume from."""

    type: Literal["checkpoint"] = "checkpoint"
    step: Step
    path: Text | None = None
    """Relative to the run's folder."""


class RunResult(_Event):
    """The result is published in `folder`, relative to the run's folder."""

    model_config = ConfigDict(strict=False)  # a strict dataclass is read from no JSON object

    type: Literal["result"] = "result"
    summary: dict[str, Any] = {}
    shape: ModelShape | None = None
    folder: Text = "model"

    @model_validator(mode="before")
    @classmethod
    def _shape_in_summary(cls, event: dict[str, Any]) -> dict[str, Any]:
        """Release 0.1.0 wrote the shape into the summary."""
        summary = event.get("summary")
        if not isinstance(summary, dict) or "shape" not in summary:
            return event
        rest = {name: value for name, value in summary.items() if name != "shape"}
        return event | {"summary": rest, "shape": summary["shape"]}


class RunFailed(_Event):
    """The run failed with a typed error."""

    type: Literal["failed"] = "failed"
    code: Annotated[FailureCode, BeforeValidator(_one_of(FailureCode, "internal"))] = "internal"
    message: Text = "the trainer gave no reason"
    field: list[str | int] | None = None
    """Path of the setting in the config that caused it."""


class RunStopped(_Event):
    """The run stopped on request; the checkpoint of `step` is saved."""

    type: Literal["stopped"] = "stopped"
    step: Step


Ending = RunResult | RunFailed | RunStopped
Event = RunStarted | Progress | Metrics | Log | CheckpointSaved | Ending
E = TypeVar("E", bound=_Event)
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


class BadEvent(ValueError):
    """A line that is not an event; the message says what is wrong with it."""


def parse_event(line: bytes) -> Event | None:
    """The event on a line; None for an empty line or a type that this version does not know.

    Raises BadEvent.
    """
    if not line.strip():
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadEvent("a line of the trainer's events is not JSON and was skipped") from error
    if not isinstance(fields, dict):
        raise BadEvent("a line of the trainer's events is not an object and was skipped")
    try:
        return _EVENT.validate_python(fields)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
            return None
        kind, *path = map(str, problem["loc"])
        reason = f"{'.'.join(path)}: {problem['msg']}"
        raise BadEvent(f"a {kind} event was skipped: {reason}") from error


class Sink(Protocol):
    """Takes events."""

    def emit(self, event: Event) -> None: ...


class JsonlSink:
    """Appends events to a file, one `write` a line.

    A killed process or a full disk can leave half a line; the next writer ends it first, so that
    it stays one unreadable line and never merges with a later event. Raises DiskFull.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = path.parent
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
        self._cut = False
        """Whether the file ends in the middle of a line."""
        if self._file.tell() > 0:
            with open(path, "rb") as existing:
                existing.seek(-1, os.SEEK_END)
                self._cut = existing.read(1) != b"\n"

    def emit(self, event: Event) -> None:
        stamped = event.model_copy(update={"time_s": round(time.time(), 3)})
        rest = b"\n" * self._cut + stamped.model_dump_json().encode() + b"\n"
        while rest:
            # A disk that is filling up takes a part, and only then has no room left.
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                if is_disk_full(error):
                    raise disk_full(self._folder, len(rest)) from error
                raise
            self._cut = bool(rest)

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


class FailureSink:
    """Writes nothing but a failure: for all processes of a run but the main one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def emit(self, event: Event) -> None:
        if isinstance(event, RunFailed):
            sink = JsonlSink(self._path)
            sink.emit(event)
            sink.close()

    def close(self) -> None:
        """Nothing is open."""


class Fanout:
    """Passes every event to several sinks."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def emit(self, event: Event) -> None:
        for sink in self._sinks:
            sink.emit(event)


class ListSink:
    """Keeps events in memory, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def of_type(self, type: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, type)]


def progress_eta_s(done: float, total: float | None, elapsed_s: float) -> float | None:
    """Seconds left at the average rate so far; None while it cannot be known."""
    if not total or done <= 0:
        return None
    return max(0.0, elapsed_s * (total - done) / done)


class PhaseProgress:
    """Emits the progress of one phase: at its start, its end, and every half second between."""

    _EVERY_S = 0.5

    def __init__(self, sink: Sink, phase: str, total: int, unit: str) -> None:
        self._sink, self._phase, self._total, self._unit = sink, phase, total, unit
        self._start_s = self._emitted_s = time.monotonic()
        self._emit(0)

    def update(self, done: int) -> None:
        now_s = time.monotonic()
        if done < self._total and now_s - self._emitted_s >= self._EVERY_S:
            self._emitted_s = now_s
            self._emit(done)

    def finish(self) -> None:
        self._emit(self._total)

    def _emit(self, done: int) -> None:
        self._sink.emit(
            Progress(
                phase=self._phase,
                done=done,
                total=self._total,
                unit=self._unit,
                eta_s=progress_eta_s(done, self._total, time.monotonic() - self._start_s),
            )
        )
