"""kdcore's own update, driven one at a time; nothing of its loop is rebuilt here."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.channel import Channel
from benchmarks.shapes import Shape
from benchmarks.work import Goal, distil_objective, load_model, mlm_objective, read_text
from kdcore import device as machine
from kdcore.config import Reporting
from kdcore.data.prefetch import TrainingPlan
from kdcore.device import ResolvedPrecision
from kdcore.events import ListSink
from kdcore.loss.objectives import Objective
from kdcore.model.bert import MaskedLM, position_embeddings, shape_of
from kdcore.train.checkpoint import Checkpointer
from kdcore.train.evaluate import EvalResult
from kdcore.train.loop import Training, make_optimiser, train_step


def make_training(
    of: Shape,
    goal: Goal,
    work: Path,
    precision: ResolvedPrecision,
    device: torch.device,
    dropout: float,
) -> Training:
    """A training of the work folder's models, as a run would set it up."""
    machine.use_device(device)
    text = read_text(of)
    if goal == "teacher":
        model = load_model(work / "teacher", dropout).to(device)
        return training_of(of, goal, work, model, mlm_objective(of, model, text), precision)
    teacher = load_model(work / "teacher", dropout).to(device).eval().requires_grad_(False)
    model = load_model(work / "student", dropout).to(device)
    position_embeddings(model).weight.requires_grad_(not of.distil.freeze_positions)
    objective = distil_objective(of, model, teacher, text, goal)
    return training_of(of, goal, work, model, objective, precision)


def training_of(
    of: Shape,
    goal: Goal,
    work: Path,
    model: MaskedLM,
    objective: Objective,
    precision: ResolvedPrecision,
) -> Training:
    """What kdcore's loop needs, with nothing to report and nothing to save."""
    config = (
        of.teacher
        if goal == "teacher"
        else of.distill_config(work / "teacher", work / "student", largest=goal == "largest")
    )
    model.train()
    return Training(
        model=model,
        objective=objective,
        schedule=config.schedule,
        optimiser=config.optimiser,
        reporting=Reporting(),
        seed=config.seed,
        precision=precision,
        checkpointer=Checkpointer(work / "checkpoints"),
        identity="benchmark",
        sink=ListSink(),
        should_stop=lambda: False,
        evaluate=lambda _step: EvalResult(0.0),
        max_tokens_per_microbatch=machine.pick_max_tokens_per_microbatch(
            shape_of(model), model.device
        ),
    )


def prepare_process() -> None:
    """Set allocator and threads as a run does."""
    machine.prepare_process()


def train(
    of: Shape,
    goal: Goal,
    work: Path,
    precision: ResolvedPrecision,
    channel: Channel,
    device: torch.device,
    dropout: float,
) -> None:
    """One update of kdcore's loop whenever it is asked for; batches are made within its time."""
    training = make_training(of, goal, work, precision, device, dropout)
    plan = TrainingPlan.of(training.schedule, training.objective.batches_per_epoch)
    optimiser = make_optimiser(training.model, training.optimiser)
    same = training.objective.batch(0, 0)
    with np.load(work / f"{goal}-0.npz") as theirs:
        assert np.array_equal(same.ids, theirs["ids"]), "the reference reads another batch"
        assert np.array_equal(same.labels, theirs["labels"]), "the reference has other labels"
    channel.ready()
    while (request := channel.next()) is not None:
        channel.begin(request)
        done = train_step(training, plan, optimiser, request.step)
        channel.end(done.tokens)
