"""The share of a run's time that logging, events and checkpoints cost at the default intervals.

Runs a few updates of a real teacher run that logs and saves after each of them, measures every
call, and scales by the default intervals:

    share = metrics_s / (log_every_steps * update_s)     one point of every curve
          + progress_s / max(PROGRESS_EVERY_S, update_s) the progress event
          + save_s / max(checkpoint_every_s, save_s / CHECKPOINT_SHARE)  a checkpoint

each `_s` the median time of one call, `update_s` the median time of an update without them.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import kdcore.train.checkpoint
from benchmarks.shapes import BUILD, CACHE, SHAPES, shape
from kdcore.config import Evaluation, Reporting
from kdcore.events import Event, JsonlSink, Metrics
from kdcore.run import execute
from kdcore.train.metrics import CHECKPOINT_SHARE, PROGRESS_EVERY_S

GOAL = 0.01


class _TimedSink:
    """The run's own sink, with a stop watch; `spent_s` counts events and checkpoints alike."""

    def __init__(self, path: Path) -> None:
        self._sink = JsonlSink(path)
        self.calls_s: dict[str, list[float]] = {}
        self.points: list[tuple[float, float]] = []
        """Clock and time spent on reporting so far, at each update's metrics."""
        self.spent_s = 0.0

    def emit(self, event: Event) -> None:
        start_s = time.perf_counter()
        self._sink.emit(event)
        self.add(event.type, time.perf_counter() - start_s)
        if isinstance(event, Metrics) and "loss" in event.values:
            self.points.append((time.perf_counter(), self.spent_s))

    def add(self, name: str, elapsed_s: float) -> None:
        self.calls_s.setdefault(name, []).append(elapsed_s)
        self.spent_s += elapsed_s

    def updates_s(self) -> list[float]:
        """Times of the updates after the first, reporting left out."""
        pairs = zip(self.points, self.points[1:], strict=False)
        return [(b[0] - a[0]) - (b[1] - a[1]) for a, b in pairs]


def measure(shape_name: str, updates: int, device: str) -> dict[str, Any]:
    """Medians of the calls, and the share at the default intervals."""
    of = shape(shape_name)
    schedule = of.teacher.schedule.model_copy(update={"max_steps": updates, "epochs": 1.0})
    config = of.teacher.model_copy(
        update={
            "schedule": schedule,
            "evaluation": Evaluation(max_sequences=1),
            "reporting": Reporting(log_every_steps=1, checkpoint_every_s=0.0),
        }
    )
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        sink = _TimedSink(Path(folder) / "events.jsonl")
        save = kdcore.train.checkpoint.Checkpointer.save

        def timed_save(self: Any, *arguments: Any) -> Path:
            start_s = time.perf_counter()
            path = save(self, *arguments)
            sink.add("save", time.perf_counter() - start_s)
            return path

        kdcore.train.checkpoint.Checkpointer.save = timed_save  # type: ignore[assignment, method-assign]
        try:
            execute(config, Path(folder), sink, cache_dir=CACHE, device=device)
        finally:
            kdcore.train.checkpoint.Checkpointer.save = save  # type: ignore[method-assign]
    default = Reporting()
    update_s = median(sink.updates_s())
    metrics_s, progress_s, event_s, save_s = (
        median(sink.calls_s[name]) for name in ("metrics", "progress", "checkpoint", "save")
    )
    parts = {
        "metrics": metrics_s / (default.log_every_steps * update_s),
        "progress": progress_s / max(PROGRESS_EVERY_S, update_s),
        "checkpoints": (save_s + event_s)
        / max(default.checkpoint_every_s, save_s / CHECKPOINT_SHARE),
    }
    return {
        "shape": shape_name,
        "update_s": update_s,
        "metrics_s": metrics_s,
        "progress_s": progress_s,
        "save_s": save_s,
        "shares": parts,
        "share": sum(parts.values()),
        "goal": GOAL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="published")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    if options.updates < 2:
        parser.error("--updates must be at least 2")
    BUILD.mkdir(parents=True, exist_ok=True)
    found = measure(options.shape, options.updates, options.device)
    print(
        f"update {found['update_s']:.3f} s, metrics {found['metrics_s'] * 1e6:.0f} us, "
        f"progress {found['progress_s'] * 1e6:.0f} us, checkpoint {found['save_s']:.3f} s: "
        f"{found['share']:.3%} of the run (goal {GOAL:.0%})"
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
