"""kdcore's time per update as tokens, layers, hidden size and vocabulary grow, one at a time.

Fits a line by least squares to each and reports its R^2, and the exponent of a power law, which is
1 for a proportional cost and below it where some of the cost is fixed. Widths are an exception to
be expected: a layer's attention projections grow with the square. Writes one SVG. Text is random:
only its amount matters.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.machine import synchronize
from benchmarks.ours import prepare_process, training_of
from benchmarks.plots import Series, write_svg
from benchmarks.progress import Steps, progress_line
from benchmarks.shapes import BUILD, Shape, shape
from benchmarks.work import Goal
from kdcore.config import DistillSchedule, Schedule, ScratchModel
from kdcore.data.batching import Lines
from kdcore.data.prefetch import TrainingPlan
from kdcore.data.tokenizers import TokenizerInfo
from kdcore.loss.objectives import DistillObjective, MlmObjective
from kdcore.model.bert import build_teacher
from kdcore.model.prune import prune
from kdcore.train.loop import make_optimiser, train_step

GOALS: tuple[Goal, ...] = ("teacher", "distill")
_SPECIAL = 5


@dataclass(frozen=True)
class Point:
    """One size; the base of every sweep is the default."""

    tokens: int = 2048
    layers: int = 4
    hidden: int = 256
    vocab: int = 8192
    seq_len: int = 128


SWEEPS: dict[str, tuple[int, ...]] = {
    "tokens": (1024, 2048, 4096, 8192),
    "layers": (2, 4, 8, 12),
    "hidden": (128, 256, 384, 512),
    "vocab": (4096, 8192, 16_384, 32_768),
}
QUICK = Point(tokens=128, layers=2, hidden=32, vocab=300, seq_len=32)
QUICK_SWEEPS: dict[str, tuple[int, ...]] = {
    "tokens": (64, 128, 256),
    "layers": (1, 2, 3),
    "hidden": (16, 32, 64),
    "vocab": (150, 300, 600),
}


def update_s(goal: Goal, point: Point, device: torch.device, repeats: int) -> float:
    """Median time of an update at this size, after one to warm up."""
    random = np.random.default_rng(0)
    updates = repeats + 1
    rows = point.tokens // point.seq_len
    flat = random.integers(_SPECIAL, point.vocab, (updates * rows, point.seq_len)).astype(np.int64)
    tokens = TokenizerInfo(
        None, point.vocab, 2, 3, 0, 4, 1, special_ids=frozenset(range(_SPECIAL)), fingerprint=""
    )
    of = _shape(point, rows)
    teacher = build_teacher(of.model, point.vocab, tokens.pad_id, 0).to(device)
    work = Path("unused")
    if goal == "teacher":
        mlm = MlmObjective(of.teacher, teacher, tokens, flat)
        training = training_of(of, goal, work, teacher, mlm, "fp32")
    else:
        student = prune(teacher, of.prune)[0].to(device)
        teacher.eval().requires_grad_(False)
        lengths = np.full(len(flat), point.seq_len, np.int64)
        starts = np.arange(len(flat), dtype=np.int64) * point.seq_len
        text_lines = Lines(lengths, starts, flat.ravel(), tokens.cls_id, tokens.sep_id)
        config = of.distill_config(work, work, largest=False)
        counts = np.bincount(flat.ravel(), minlength=point.vocab)
        objective = DistillObjective(config, student, teacher, tokens, text_lines, counts)
        training = training_of(of, goal, work, student, objective, "fp32")
    plan = TrainingPlan.of(training.schedule, training.objective.batches_per_epoch)
    optimiser = make_optimiser(training.model, training.optimiser)
    times = []
    for step in range(updates):
        synchronize(device)
        start_s = time.perf_counter()
        train_step(training, plan, optimiser, step)
        synchronize(device)
        times.append(time.perf_counter() - start_s)
    return median(times[1:])


def _shape(point: Point, rows: int) -> Shape:
    base = shape("tiny")
    model = ScratchModel(
        layers=point.layers,
        hidden_size=point.hidden,
        heads=4,
        intermediate_size=1024,
        max_positions=point.seq_len,
    )
    return replace(
        base,
        vocab_size=point.vocab,
        teacher=base.teacher.model_copy(
            update={
                "model": model,
                "seq_len": point.seq_len,
                "schedule": Schedule(batch_size=rows),
            }
        ),
        distil=base.distil.model_copy(update={"schedule": DistillSchedule(batch_size=rows)}),
    )


def fit(xs: list[float], ys: list[float]) -> dict[str, float]:
    """Least squares line, its R^2, and the exponent of a power law."""
    slope, start = np.polyfit(xs, ys, 1)
    left = np.asarray(ys) - (slope * np.asarray(xs) + start)
    spread = np.asarray(ys) - np.mean(ys)
    r2 = 1.0 - float((left**2).sum() / (spread**2).sum())
    exponent = float(np.polyfit(np.log(xs), np.log(ys), 1)[0])
    return {"slope": float(slope), "start": float(start), "r2": r2, "exponent": exponent}


def measure(
    base: Point,
    sweeps: dict[str, tuple[int, ...]],
    device: torch.device,
    repeats: int,
    steps: Steps,
) -> list[Series]:
    """Every sweep of both goals."""
    steps.expect([f"{g}, {what}" for g in GOALS for what, sizes in sweeps.items() for _ in sizes])
    found = []
    for goal in GOALS:
        for what, sizes in sweeps.items():
            times_s = []
            for size in sizes:
                with steps.step(f"{goal}, {what}"):
                    point = replace(base, **{what: size})
                    times_s.append(update_s(goal, point, device, repeats))
            xs = [float(size) for size in sizes]
            found.append(Series(goal, what, xs, times_s, fit(xs, times_s)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try it out")
    parser.add_argument("--svg", type=Path, default=BUILD / "sweeps.svg")
    options = parser.parse_args()
    prepare_process()
    base, sweeps = (QUICK, QUICK_SWEEPS) if options.quick else (Point(), SWEEPS)
    with progress_line() as steps:
        device = torch.device(options.device)
        found = measure(base, sweeps, device, options.repeats, steps)
    options.svg.parent.mkdir(parents=True, exist_ok=True)
    write_svg(found, options.svg)
    for series in found:
        name = f"{series.goal}, {series.what}"
        print(f"{name:<18} R^2 {series.fit['r2']:.4f}  exponent {series.fit['exponent']:.2f}")
    print(json.dumps({f"{s.goal}_{s.what}": s.fit | {"times_s": s.ys} for s in found}))


if __name__ == "__main__":
    main()
