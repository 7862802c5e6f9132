"""Gives the reference its numbers and its batches; imports no part of kdcore that trains."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.reference import Batch, Recipe
from benchmarks.shapes import Shape


def recipe_of(of: Shape, goal: str, total_steps: int, *, bf16: bool) -> Recipe:
    """The recipe of a goal, from the shape's config."""
    optimiser = of.teacher.optimiser if goal == "teacher" else of.distil.optimiser
    loss = of.distil.loss
    return Recipe(
        learning_rate=optimiser.learning_rate,
        betas=(optimiser.beta1, optimiser.beta2),
        epsilon=optimiser.epsilon,
        weight_decay=optimiser.weight_decay,
        clip_norm=optimiser.clip_norm or float("inf"),
        warmup_fraction=optimiser.warmup_fraction,
        total_steps=total_steps,
        temperature=loss.temperature,
        alpha_ce=loss.alpha_ce,
        alpha_mlm=loss.alpha_mlm,
        alpha_cos=loss.alpha_cos,
        freeze_positions=of.distil.freeze_positions,
        bf16=bf16,
    )


def read_batches(work: Path, goal: str) -> list[Batch]:
    """The batches of all updates that were prepared, in their order."""
    count = len(list(work.glob(f"{goal}-*.npz")))
    return [read_batch(work, goal, step) for step in range(count)]


def read_batch(work: Path, goal: str, step: int) -> Batch:
    with np.load(work / f"{goal}-{step}.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
