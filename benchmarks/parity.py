"""How far kdcore's losses and gradients are from the plain formulas', on one batch.

Both sides read the same weights and the same batch, dropout off. Prints one line of JSON:
`{goal: {fp32 | bf16 | autocast: {loss: {term: difference}, loss_max, gradient_max,
gradient_global}}}`. Differences are relative: |ours - plain| / |plain|, for gradients with the
Euclidean norm, `gradient_max` the greatest of any parameter, `gradient_global` of all together.
Biases of keys count for the latter only: they shift all scores of a query alike, so their gradient
is 0 and what is computed is rounding.
`plain` is always fp32; `autocast` is the plain formulas under bf16 autocast, as a yardstick.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import ours, reference
from benchmarks.recipes import read_batches, recipe_of
from benchmarks.shapes import SHAPES, Shape, shape
from benchmarks.work import Goal, load_model
from kdcore.data.prefetch import TrainingPlan
from kdcore.device import ResolvedPrecision
from kdcore.train.loop import gradients

_KEY_BIASES = ("key.bias", "k_lin.bias")
Side = tuple[dict[str, float], dict[str, Tensor]]
"""Losses by term, gradients by parameter."""


def plain_side(
    of: Shape, goal: Goal, work: Path, step: int, device: torch.device, *, autocast: bool
) -> Side:
    """The reference's losses and gradients of one batch."""
    batches = read_batches(work, goal)
    batch = {name: array.to(device) for name, array in batches[step].items()}
    recipe = recipe_of(of, goal, 1, bf16=False)
    teacher = load_model(work / "teacher", dropout=0.0).to(device)
    model = teacher
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        if goal == "teacher":
            terms = reference.mlm_terms(reference.with_layer_drop(teacher, 0.0).train(), batch)
        else:
            teacher.eval().requires_grad_(False)
            model = load_model(work / "student", dropout=0.0).to(device).train()
            if recipe.freeze_positions:
                reference.freeze_positions(model)
            terms = reference.distil_terms(model, teacher, batch, recipe)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    losses = {name: value.item() for name, value in terms.items()}
    return losses, _gradients_of(model)


def kdcore_side(
    of: Shape,
    goal: Goal,
    work: Path,
    step: int,
    device: torch.device,
    precision: ResolvedPrecision,
) -> Side:
    """kdcore's losses and gradients of the same batch."""
    training = ours.make_training(of, goal, work, precision, device, dropout=0.0)
    plan = TrainingPlan.of(training.schedule, training.objective.batches_per_epoch)
    done = gradients(training, plan, step)
    losses = {name.removeprefix("loss/"): value.item() for name, value in done.values.items()}
    return losses, _gradients_of(training.model)


def _gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(plain: Side, other: Side) -> dict[str, Any]:
    """The differences of two sides; see the module's docstring."""
    losses, theirs = plain
    assert losses.keys() <= other[0].keys(), (losses.keys(), other[0].keys())
    loss = {name: abs(other[0][name] - value) / abs(value) for name, value in losses.items()}
    # BERT's pooler, for one, has no part in the loss: some have none, others zeros.
    used = {name: g.double() for name, g in theirs.items() if float(g.norm()) > 0.0}
    extra = {name for name, g in other[1].items() if float(g.norm()) > 0.0} - used.keys()
    assert not extra, f"only kdcore has a gradient for {sorted(extra)}"
    errors = {name: (g - other[1][name].double()).norm() for name, g in used.items()}
    norms = {name: g.norm() for name, g in used.items()}
    whole = torch.stack(list(errors.values())).norm() / torch.stack(list(norms.values())).norm()
    meaningful = [name for name in errors if not name.endswith(_KEY_BIASES)]
    worst = max(meaningful, key=lambda name: float(errors[name] / norms[name]))
    return {
        "loss": loss,
        "loss_max": max(loss.values()),
        "gradient_max": float(errors[worst] / norms[worst]),
        "gradient_max_of": worst,
        "gradient_global": float(whole),
    }


def most_padded(work: Path, goal: Goal) -> int:
    """The prepared update whose batch has the greatest share of padding."""
    batches = read_batches(work, goal)
    if goal == "teacher":
        return 0
    shares = [float(batch["attention_mask"].float().mean()) for batch in batches]
    return shares.index(min(shares))


def measure(of: Shape, work: Path, device: torch.device, what: list[str]) -> dict[str, Any]:
    """The differences of each goal in each arithmetic of `what`."""
    found: dict[str, Any] = {}
    goals: tuple[Goal, ...] = ("teacher", "distill")
    for goal in goals:
        step = most_padded(work, goal)
        plain = plain_side(of, goal, work, step, device, autocast=False)
        found[goal] = {}
        if "fp32" in what:
            other = kdcore_side(of, goal, work, step, device, "fp32")
            found[goal]["fp32"] = compare(plain, other)
        if "bf16" in what:
            other = kdcore_side(of, goal, work, step, device, "bf16")
            found[goal]["bf16"] = compare(plain, other)
            other = plain_side(of, goal, work, step, device, autocast=True)
            found[goal]["autocast"] = compare(plain, other)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--arithmetic", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    options = parser.parse_args()
    ours.prepare_process()
    device = torch.device(options.device)
    found = measure(shape(options.shape), options.work, device, options.arithmetic)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
