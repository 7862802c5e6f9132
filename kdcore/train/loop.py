"""One plain training loop: batches -> objective -> step -> events, checkpoint, stop."""

import itertools
import math
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdcore.config import Optimiser, Reporting, Schedule
from kdcore.data.prefetch import BatchPrefetcher, PlannedBatch, TrainingPlan
from kdcore.device import ResolvedPrecision, device_error
from kdcore.distributed.process_group import SINGLE_PROCESS, Ranks, checksum
from kdcore.errors import MEMORY_ADVICE, CheckpointError, DeviceOutOfMemory
from kdcore.events import CheckpointSaved, Log, Metrics, Sink
from kdcore.loss.objectives import Objective
from kdcore.model.bert import MaskedLM
from kdcore.rng import rng
from kdcore.train.checkpoint import Checkpoint, Checkpointer, optimiser_tensors, restore_optimiser
from kdcore.train.context import Stopped
from kdcore.train.evaluate import EvalResult, StopRequested
from kdcore.train.lr_schedule import linear_factor
from kdcore.train.metrics import RunningTotals, TrainingTimer
from kdcore.train.nonfinite import NonFiniteDetector

COMPARE_EVERY_STEPS = 100
"""Steps between two comparisons of the ranks' weights, which cost a pass over them."""
NOT_REPRODUCIBLE = "training continues correctly, but is no longer bit-for-bit reproducible"
_NO_DECAY = ("bias", "LayerNorm.weight", "layer_norm.weight")


@dataclass(frozen=True)
class FitResult:
    """A finished training: `means` are over all its steps, `last` is the last step's."""

    steps: int
    evaluated: EvalResult
    means: dict[str, float]
    last: dict[str, float]
    tokens: int
    trained_s: float


@dataclass(frozen=True)
class Training:
    """All that `fit` needs."""

    model: MaskedLM
    objective: Objective
    schedule: Schedule
    optimiser: Optimiser
    reporting: Reporting
    seed: int
    precision: ResolvedPrecision
    checkpointer: Checkpointer
    identity: str
    """Fingerprint of everything that decides the weights; a checkpoint of another is refused."""
    sink: Sink
    should_stop: Callable[[], bool]
    evaluate: Callable[[int], EvalResult]
    """Called with the step; emits its metrics itself. Raises StopRequested."""
    eval_every_steps: int | None = None
    max_tokens_per_microbatch: int = 1 << 10
    """Larger batches are split; memory grows with this, not with the batch."""
    ranks: Ranks = SINGLE_PROCESS


def make_optimiser(model: MaskedLM, options: Optimiser) -> torch.optim.AdamW:
    """AdamW over the parameters that train; biases and layer norms do not decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for name, p in trained if not name.endswith(_NO_DECAY)],
            "weight_decay": options.weight_decay,
        },
        {"params": [p for name, p in trained if name.endswith(_NO_DECAY)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        fused=True,
    )


def fit(training: Training, resume: Checkpoint | None = None) -> FitResult | Stopped:
    """Train and evaluate until the plan is done, or until `should_stop` is true (then a checkpoint
    is saved).

    A step depends on (config, seed, step) and the weights before it, so a training that is resumed
    gives the same weights, bit for bit, as one that was never stopped. Raises NonFiniteLoss, and
    CheckpointError if `resume` belongs to another training; where several processes train,
    RankLost and RanksDiffer too. If the device has no memory for a step, the step is repeated in
    microbatches of half the size, as are all that follow; the next time, raises DeviceOutOfMemory.
    """
    model, sink, ranks, given = training.model, training.sink, training.ranks, training
    plan = TrainingPlan.of(training.schedule, training.objective.batches_per_epoch)
    optimiser = make_optimiser(model, training.optimiser)
    names = {id(p): name for name, p in model.named_parameters()}
    totals, done = _start(training, optimiser, names, resume)
    timer = TrainingTimer(
        done, plan.total_steps, totals.trained_s, training.reporting, totals.tokens
    )
    model.train()
    watch = NonFiniteDetector(plan, model)
    every = training.eval_every_steps
    try:
        with closing(BatchPrefetcher(plan, training.objective.batch)) as prefetcher:
            for step in range(first := done, plan.total_steps):
                if ranks.any_rank(training.should_stop()):
                    raise StopRequested
                if every and step and step % every == 0:
                    # Before the step rather than after the last: a resumed training evaluates too,
                    # whether or not the one before came to it.
                    with timer.paused():
                        training.evaluate(step)
                if step % COMPARE_EVERY_STEPS == 0 or step == first:
                    _compare(training, step)
                try:
                    result = train_step(
                        training, plan, optimiser, step, prefetcher.batches_of_step(step)
                    )
                except DeviceOutOfMemory as error:
                    if training is not given:
                        raise
                    training = _halved(given, plan, optimiser, step, str(error))
                    result = train_step(
                        training, plan, optimiser, step, prefetcher.batches_of_step(step)
                    )
                done = step + 1
                watch.see(step, result.values)
                totals.add(result.values)
                totals.tokens += result.tokens
                if done % training.reporting.log_every_steps == 0 or done == plan.total_steps:
                    watch.raise_if_nonfinite()
                    _log(training, done, _factor(training, plan, step), result, totals, timer)
                if timer.progress_due(done):
                    sink.emit(timer.progress(done))
                if done < plan.total_steps and timer.checkpoint_due():
                    with timer.saving():
                        watch.raise_if_weights_nonfinite(done)
                        _save(training, done, optimiser, names, totals, timer)
        watch.raise_if_weights_nonfinite(done)
        _compare(training, done)
        with timer.paused():
            evaluated = training.evaluate(done)
    except StopRequested:
        watch.raise_if_weights_nonfinite(done)
        _save(training, done, optimiser, names, totals, timer)
        _compare(training, done)  # so that no process leaves before the checkpoint is saved
        return Stopped(done)
    return FitResult(
        steps=done,
        evaluated=evaluated,
        means={name: total.item() / max(1, done) for name, total in totals.since_start.items()},
        last={name: value.item() for name, value in totals.last.items()},
        tokens=totals.tokens,
        trained_s=timer.trained_s(),
    )


@dataclass(frozen=True)
class StepResult:
    """What one step did: its mean losses, still on the device, and its number of non-padding
    tokens."""

    values: dict[str, Tensor]
    tokens: int
    extra_metrics: dict[str, float]


def train_step(
    training: Training,
    plan: TrainingPlan,
    optimiser: torch.optim.Optimizer,
    step: int,
    batches: Iterable[PlannedBatch] | None = None,
) -> StepResult:
    """Optimizer step number `step` (from 0)."""
    rate = training.optimiser.learning_rate * _factor(training, plan, step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    result = gradients(training, plan, step, batches)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    limit = training.optimiser.clip_norm or math.inf
    result.values["grad_norm"] = torch.nn.utils.clip_grad_norm_(trained, limit).double()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return result


def _halved(
    training: Training, plan: TrainingPlan, optimiser: torch.optim.Optimizer, step: int, why: str
) -> Training:
    """The training with microbatches of half the size, ready to repeat `step`."""
    optimiser.zero_grad(set_to_none=True)
    if training.model.device.type == "cuda":
        torch.cuda.empty_cache()
    min_parts = training.ranks.min_parts(plan.accumulation_steps)
    batches = (training.objective.batch(*place) for place in plan.batches(step))
    parts = (
        part
        for batch in batches
        for part in batch.microbatches(training.max_tokens_per_microbatch, min_parts)
    )
    tokens = max(part.num_tokens for part in parts)
    message = (
        f"out of memory with microbatches of {tokens:,} tokens: using {tokens // 2:,} from step "
        f"{step + 1}; "
        f"{NOT_REPRODUCIBLE}. {why}"
    )
    training.sink.emit(Log(level="warning", message=message))
    return replace(training, max_tokens_per_microbatch=tokens // 2)


def gradients(
    training: Training, plan: TrainingPlan, step: int, batches: Iterable[PlannedBatch] | None = None
) -> StepResult:
    """Add the gradients of `step` to the parameters' own; makes its batches if none are given.

    Raises DeviceOutOfMemory, on all ranks, if one of their devices has no memory for its share.
    """
    ranks, lacking = training.ranks, ""
    try:
        found = _of_own_parts(training, plan, step, batches)
    except RuntimeError as error:
        typed = device_error(error)
        if not isinstance(typed, DeviceOutOfMemory):
            raise
        # The message only: the error itself keeps what the step has in memory.
        lacking = str(typed)
    if ranks.any_rank(bool(lacking)):
        elsewhere = f"the device of another process has no memory left: {MEMORY_ADVICE}"
        raise DeviceOutOfMemory(lacking or elsewhere)
    ranks.all_reduce_gradients([p for p in training.model.parameters() if p.requires_grad])
    names = _curves(training.objective)
    sums = ranks.sum(found.sums).unbind()
    return StepResult(dict(zip(names, sums, strict=False)), found.tokens, found.extra_metrics)


@dataclass(frozen=True)
class _OwnParts:
    sums: Tensor
    """Of the losses of this rank's microbatches."""
    tokens: int
    """Of all microbatches."""
    extra_metrics: dict[str, float]


def _of_own_parts(
    training: Training, plan: TrainingPlan, step: int, batches: Iterable[PlannedBatch] | None
) -> _OwnParts:
    """Add the gradients of this rank's microbatches of `step`.

    The ranks take turns with the microbatches of all its batches.
    """
    objective, ranks, device = training.objective, training.ranks, training.model.device
    tokens, turns, extra_metrics = 0, itertools.count(), dict[str, float]()
    sums = torch.zeros(1 + len(objective.terms), dtype=torch.float64, device=device)
    if batches is None:
        batches = (PlannedBatch(*place, objective.batch(*place)) for place in plan.batches(step))
    share, min_parts = 1.0 / len(plan.batches(step)), ranks.min_parts(plan.accumulation_steps)
    for epoch, index, batch in batches:
        tokens += batch.num_tokens
        for number, part in enumerate(
            batch.microbatches(training.max_tokens_per_microbatch, min_parts)
        ):
            if not ranks.is_mine(next(turns)):
                continue
            # Dropout's randomness restarts at every microbatch: a function of the step too.
            draw = rng(training.seed, "dropout", epoch, index, number)
            torch.manual_seed(int(draw.integers(1 << 62)))
            with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                losses = objective.losses(part, batch, step, share)
            losses.total.backward()  # type: ignore[no-untyped-call]
            extra_metrics = losses.extra_metrics
            terms = (losses.terms[name] for name in objective.terms)
            sums += torch.stack([each.detach().double() for each in (losses.total, *terms)])
    return _OwnParts(sums, tokens, extra_metrics)


def _curves(objective: Objective) -> list[str]:
    """Names of a step's losses; a single term is the loss itself."""
    terms = objective.terms if len(objective.terms) > 1 else ()
    return ["loss", *(f"loss/{name}" for name in terms)]


def _compare(training: Training, done: int) -> None:
    """Raise RanksDiffer unless the weights are the same bits on all ranks."""
    if training.ranks.world > 1:
        found = checksum(list(training.model.parameters()))
        training.ranks.check_equal(f"the weights after step {done}", found)


def _factor(training: Training, plan: TrainingPlan, step: int) -> float:
    return linear_factor(step, plan.total_steps, training.optimiser.warmup_fraction)


def _start(
    training: Training,
    optimiser: torch.optim.AdamW,
    names: dict[int, str],
    resume: Checkpoint | None,
) -> tuple[RunningTotals, int]:
    if resume is None:
        return RunningTotals(), 0
    if resume.state.get("identity") != training.identity:
        raise CheckpointError(
            f"the checkpoint of step {resume.step} belongs to a run with other settings or "
            "other text: use another --out"
        )
    with torch.no_grad():
        for name, parameter in training.model.named_parameters():
            parameter.copy_(resume.model[name])
    restore_optimiser(optimiser, names, resume.optimiser)
    return RunningTotals.from_state(resume.state["totals"], training.model.device), resume.step


def _log(
    training: Training,
    done: int,
    factor: float,
    result: StepResult,
    totals: RunningTotals,
    timer: TrainingTimer,
) -> None:
    steps = done - totals.logged_step
    values: dict[str, float] = {
        name: total.item() / steps for name, total in totals.since_log.items()
    }
    values["lr"] = training.optimiser.learning_rate * factor
    values |= result.extra_metrics
    values["tokens_per_s"] = timer.tokens_per_s(totals.tokens)
    training.sink.emit(Metrics(step=done, values=values))
    totals.since_log.clear()
    totals.logged_step = done


def _save(
    training: Training,
    done: int,
    optimiser: torch.optim.AdamW,
    names: dict[int, str],
    totals: RunningTotals,
    timer: TrainingTimer,
) -> None:
    if not training.ranks.is_main_process:
        return
    totals.trained_s = timer.trained_s()
    path = training.checkpointer.save(
        done,
        training.model,
        optimiser_tensors(optimiser, names),
        {
            "identity": training.identity,
            "precision": training.precision,
            "tokens_at_once": training.max_tokens_per_microbatch,
            "world": training.ranks.world,
            "totals": totals.as_state(),
        },
    )
    training.sink.emit(CheckpointSaved(step=done, path=f"{path.parent.name}/{path.name}"))
