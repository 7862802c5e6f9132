"""What a run says while it runs, and the sinks that take it; imports no torch.

One event is one JSON object on one line of `events.jsonl`, with a `type`:

| type         | fields                                                     |
|--------------|------------------------------------------------------------|
| `started`    | config, versions, device, total_steps, resumed_step        |
| `progress`   | phase, done, total (None if unknown), unit, eta_s (None if unknown) |
| `metrics`    | step, values {name: float or None}                         |
| `log`        | level (info, warning, error), message                      |
| `checkpoint` | step, path (relative to the run's folder)                  |
| `result`     | summary {name: number or text}, folder (relative)          |
| `failed`     | code, message, field (path in the config, or None)         |
| `stopped`    | step (a checkpoint of this step was saved)                 |

Every event also carries `time_s` (seconds since the epoch). A value that is not finite is written
as null, so that each line is strict JSON.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol

from kdcore.errors import disk_full, is_disk_full

Event = dict[str, Any]
EVENT_TYPES = frozenset(
    {"started", "progress", "metrics", "log", "checkpoint", "result", "failed", "stopped"}
)


class Sink(Protocol):
    """Takes events; must not raise for an event it does not know."""

    def emit(self, type: str, /, **fields: Any) -> None: ...


def _strict(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


class JsonlSink:
    """Appends events to a file, one `write` a line.

    A killed process or a full disk can leave half a line; whoever writes next ends it, so that the
    half line is one unreadable line and never merges with a later event. Raises DiskFull.
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

    def emit(self, type: str, /, **fields: Any) -> None:
        event = {"type": type, "time_s": round(time.time(), 3), **_strict(fields)}
        rest = b"\n" * self._cut + json.dumps(event, ensure_ascii=False).encode() + b"\n"
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
    """Writes nothing but a failure: for the processes of a run that are not its first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def emit(self, type: str, /, **fields: Any) -> None:
        if type == "failed":
            sink = JsonlSink(self._path)
            sink.emit(type, **fields)
            sink.close()

    def close(self) -> None:
        """Nothing is open."""


class Fanout:
    """Passes every event to several sinks."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def emit(self, type: str, /, **fields: Any) -> None:
        for sink in self._sinks:
            sink.emit(type, **fields)


class ListSink:
    """Keeps events in memory, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, type: str, /, **fields: Any) -> None:
        self.events.append({"type": type, **_strict(fields)})

    def of_type(self, type: str) -> list[Event]:
        return [event for event in self.events if event["type"] == type]


def progress_eta_s(done: float, total: float | None, elapsed_s: float) -> float | None:
    """Seconds left at the average rate so far; None while it cannot be known."""
    if not total or done <= 0:
        return None
    return max(0.0, elapsed_s * (total - done) / done)


class Progress:
    """The progress of one phase: emitted at its start, its end, and every half second between."""

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
        eta_s = progress_eta_s(done, self._total, time.monotonic() - self._start_s)
        self._sink.emit(
            "progress",
            phase=self._phase,
            done=done,
            total=self._total,
            unit=self._unit,
            eta_s=eta_s,
        )
