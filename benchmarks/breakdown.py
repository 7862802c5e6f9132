"""What the time of kdcore's update goes into, operation by operation, and the bound that this sets.

    make bench-profile                      the published shape
    make bench-profile ARGS='--shape demo'

Every update but the first is profiled. Matrix products cannot be left out (they are what the
formulas ask for), so with all else free and the products at the machine's best rate an update would
still take `bound_s`; the last column of the summary is the share of that bound that is reached.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.driver import run_module
from benchmarks.machine import flop_counter, synchronize
from benchmarks.ours import make_training, prepare_process
from benchmarks.progress import Steps, progress_line
from benchmarks.shapes import BUILD, SHAPES, TIMING_DROPOUT, shape
from benchmarks.work import Goal
from kdcore.data.prefetch import TrainingPlan
from kdcore.train.loop import make_optimiser, train_step

GOALS: tuple[Goal, ...] = ("teacher", "distill")
PRODUCTS = frozenset(f"aten::{name}" for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm"))
_SHOWN = 12


def break_down(
    shape_name: str, goal: Goal, work: Path, device: torch.device, updates: int, steps: Steps
) -> dict[str, Any]:
    """Wall seconds of the profiled updates, seconds of each operation, tokens and FLOPs."""
    training = make_training(shape(shape_name), goal, work, "fp32", device, TIMING_DROPOUT)
    plan = TrainingPlan.of(training.schedule, training.objective.batches_per_epoch)
    optimiser = make_optimiser(training.model, training.optimiser)
    with steps.step(f"{goal}: counting"), flop_counter() as counter:
        first = train_step(training, plan, optimiser, 0)
    flops_per_token = counter.get_total_flops() / first.tokens
    tokens = 0
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        start_s = time.perf_counter()
        for step in range(1, updates + 1):
            with steps.step(f"{goal}: profiling"):
                tokens += train_step(training, plan, optimiser, step).tokens
        synchronize(device)
        elapsed_s = time.perf_counter() - start_s
    name = f"self_{device.type}_time_total" if device.type == "cpu" else "self_device_time_total"
    took_s = {each.key: getattr(each, name) / 1e6 for each in profiled.key_averages()}
    return {
        "elapsed_s": elapsed_s,
        "tokens": tokens,
        "flops": flops_per_token * tokens,
        "operations_s": dict(sorted(took_s.items(), key=lambda item: -item[1])),
    }


def judge(found: dict[str, Any], peak_gflops: float) -> dict[str, float]:
    """Shares of the time, the products' own rate, and the bound."""
    took_s = found["operations_s"]
    products_s = sum(seconds for name, seconds in took_s.items() if name in PRODUCTS)
    bound_s = found["flops"] / peak_gflops / 1e9
    return {
        "tokens_per_s": found["tokens"] / found["elapsed_s"],
        "products_share": products_s / found["elapsed_s"],
        "products_gflops": found["flops"] / products_s / 1e9,
        "bound_tokens_per_s": found["tokens"] / bound_s,
        "share_of_bound": bound_s / found["elapsed_s"],
    }


def _print(goal: str, found: dict[str, Any], judged: dict[str, float]) -> None:
    print(f"{goal}: {judged['tokens_per_s']:.0f} tokens/s while profiled")
    took_s, elapsed_s = found["operations_s"], found["elapsed_s"]
    for name, seconds in list(took_s.items())[:_SHOWN]:
        print(f"  {name:<36} {seconds:8.3f} s  {seconds / elapsed_s:6.1%}")
    rest_s = elapsed_s - sum(list(took_s.values())[:_SHOWN])
    print(f"  {'everything else':<36} {rest_s:8.3f} s  {rest_s / elapsed_s:6.1%}")
    print(
        f"  matrix products: {judged['products_share']:.1%} of the time, "
        f"at {judged['products_gflops']:.0f} GFLOP/s\n"
        f"  products alone, at the peak: {judged['bound_tokens_per_s']:.0f} tokens/s, "
        f"of which {judged['share_of_bound']:.1%} are reached\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="published")
    parser.add_argument("--updates", type=int, default=2, help="profiled updates of each goal (2)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.updates < 1:
        parser.error("--updates must be at least 1")
    prepare_process()
    BUILD.mkdir(parents=True, exist_ok=True)
    peak = ["benchmarks.peak", "--device", options.device]
    if options.shape == "tiny":
        peak.append("--quick")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="work-") as folder, progress_line() as steps:
        updates = str(1 + options.updates)
        run_module(
            "benchmarks.work", "--shape", options.shape, "--work", folder, "--updates", updates
        )
        before = run_module(*peak)["gemm_peak_gflops_fp32"]
        device = torch.device(options.device)
        broken = {
            goal: break_down(options.shape, goal, Path(folder), device, options.updates, steps)
            for goal in GOALS
        }
        gflops = max(before, run_module(*peak)["gemm_peak_gflops_fp32"])
    print(f"GEMM peak: {gflops:.0f} GFLOP/s\n")
    for goal, found in broken.items():
        figures[goal] = judge(found, gflops)
        _print(goal, found, figures[goal])
    json.dump({"gemm_peak_gflops": gflops, **figures}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
