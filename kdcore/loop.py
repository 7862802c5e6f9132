"""One plain training loop: batches -> objective -> update -> events, checkpoint, stop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdcore.batches import rng
from kdcore.checkpoint import Checkpoint, Checkpointer, optimiser_tensors, restore_optimiser
from kdcore.config import Optimiser, Reporting, Schedule
from kdcore.errors import CheckpointError, NonFiniteLoss
from kdcore.events import Sink, progress_eta_s
from kdcore.losses import is_finite
from kdcore.machine import ResolvedPrecision
from kdcore.models import MaskedLM
from kdcore.objectives import Objective

PROGRESS_EVERY_S = 1.0
_NO_DECAY = ("bias", "LayerNorm.weight", "layer_norm.weight")


@dataclass(frozen=True)
class Plan:
    """How many updates there are and which batches each of them takes."""

    batches_per_epoch: int
    accumulation_steps: int
    total_steps: int

    @classmethod
    def of(cls, schedule: Schedule, batches_per_epoch: int) -> "Plan":
        per_epoch = -(-batches_per_epoch // schedule.accumulation_steps)
        total = max(1, math.ceil(schedule.epochs * per_epoch - 1e-9))
        if schedule.max_steps is not None:
            total = min(total, schedule.max_steps)
        return cls(batches_per_epoch, schedule.accumulation_steps, total)

    def batches(self, step: int) -> tuple[int, range]:
        """The epoch of update `step` (from 0) and the batches of that epoch that it takes.

        The last update of an epoch may take fewer than `accumulation_steps`; none is left out.
        """
        per_epoch = -(-self.batches_per_epoch // self.accumulation_steps)
        epoch, index = divmod(step, per_epoch)
        start = index * self.accumulation_steps
        return epoch, range(start, min(start + self.accumulation_steps, self.batches_per_epoch))


@dataclass
class Totals:
    """Running sums on the device; read only when something is logged or saved."""

    since_log: dict[str, Tensor] = field(default_factory=dict)
    since_start: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    logged_step: int = 0
    tokens: int = 0
    trained_s: float = 0.0

    def add(self, values: dict[str, Tensor]) -> None:
        self.last = values
        for sums in (self.since_log, self.since_start):
            for name, value in values.items():
                sums[name] = sums[name] + value if name in sums else value.clone()

    def as_state(self) -> dict[str, Any]:
        """JSON of the sums; Python writes a float so that it reads back bit for bit."""
        return {
            "since_log": {name: value.item() for name, value in self.since_log.items()},
            "since_start": {name: value.item() for name, value in self.since_start.items()},
            "last": {name: value.item() for name, value in self.last.items()},
            "logged_step": self.logged_step,
            "tokens": self.tokens,
            "trained_s": self.trained_s,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> "Totals":
        def tensors(values: dict[str, float]) -> dict[str, Tensor]:
            return {
                name: torch.tensor(value, dtype=torch.float64, device=device)
                for name, value in values.items()
            }

        return cls(
            since_log=tensors(state["since_log"]),
            since_start=tensors(state["since_start"]),
            last=tensors(state["last"]),
            logged_step=state["logged_step"],
            tokens=state["tokens"],
            trained_s=state["trained_s"],
        )


@dataclass(frozen=True)
class FitResult:
    """How a training ended: `means` are over all its updates, `last` is the last update's."""

    steps: int
    stopped: bool
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
    evaluate: Callable[[int], object] | None = None
    """Called with the step; emits what it finds itself."""
    eval_every_steps: int | None = None


def linear_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Learning-rate factor of update `step`: linear warm-up to 1, then linear decay to 0.

    The formula of `transformers.get_linear_schedule_with_warmup`.
    """
    warmup = math.ceil(warmup_fraction * total_steps)
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup))


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


def fit(training: Training, resume: Checkpoint | None = None) -> FitResult:
    """Train until the plan is done or `should_stop` says so (then a checkpoint is saved).

    Update `step` depends on (config, seed, step) and the weights before it, so a training that is
    resumed gives the same weights, bit for bit, as one that was never stopped. Raises
    NonFiniteLoss, and CheckpointError if `resume` belongs to another training.
    """
    model, objective, sink = training.model, training.objective, training.sink
    device = model.device
    plan = Plan.of(training.schedule, objective.batches_per_epoch)
    optimiser = make_optimiser(model, training.optimiser)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    names = {id(p): name for name, p in model.named_parameters()}
    totals, first = _start(training, optimiser, names, resume)
    clock = _Clock(first, plan.total_steps, totals.trained_s, training.reporting)
    model.train()
    for step in range(first, plan.total_steps):
        if training.should_stop():
            _save(training, step, optimiser, names, totals, clock)
            return _result(step, True, totals, clock)
        factor = linear_factor(step, plan.total_steps, training.optimiser.warmup_fraction)
        for group in optimiser.param_groups:
            group["lr"] = training.optimiser.learning_rate * factor
        values = _gradients(training, plan, step, totals)
        limit = training.optimiser.clip_norm or math.inf
        values["grad_norm"] = torch.nn.utils.clip_grad_norm_(trained, limit).double()
        if device.type == "cpu" or (step + 1) % training.reporting.log_every_steps == 0:
            # On a GPU only where the host waits for the device anyway.
            _refuse_non_finite(step, plan, values)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        totals.add(values)
        done = step + 1
        if done % training.reporting.log_every_steps == 0 or done == plan.total_steps:
            _log(training, done, factor, totals, clock)
        if clock.progress_due(done):
            sink.emit("progress", phase="training", **clock.progress(done))
        every = training.eval_every_steps
        if training.evaluate and every and done % every == 0 and done < plan.total_steps:
            training.evaluate(done)
        if done < plan.total_steps and clock.checkpoint_due():
            _save(training, done, optimiser, names, totals, clock)
    return _result(plan.total_steps, False, totals, clock)


def _start(
    training: Training,
    optimiser: torch.optim.AdamW,
    names: dict[int, str],
    resume: Checkpoint | None,
) -> tuple[Totals, int]:
    if resume is None:
        return Totals(), 0
    if resume.state.get("identity") != training.identity:
        raise CheckpointError(
            f"the checkpoint of update {resume.step} belongs to a run with other settings or "
            "other text: give this run a folder of its own"
        )
    with torch.no_grad():
        for name, parameter in training.model.named_parameters():
            parameter.copy_(resume.model[name])
    restore_optimiser(optimiser, names, resume.optimiser)
    return Totals.from_state(resume.state["totals"], training.model.device), resume.step


def _gradients(training: Training, plan: Plan, step: int, totals: Totals) -> dict[str, Tensor]:
    """Accumulate the gradients of update `step`; returns its mean losses, still on the device."""
    objective, device = training.objective, training.model.device
    epoch, batches = plan.batches(step)
    values: dict[str, Tensor] = {}
    with objective.for_update(step):
        for index in batches:
            # Dropout's randomness restarts at every batch, so it is a function of the step too.
            torch.manual_seed(int(rng(training.seed, "dropout", epoch, index).integers(1 << 62)))
            with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                terms, tokens = objective.terms(epoch, index, step)
                loss = sum(objective.weights[name] * term for name, term in terms.items())
            assert isinstance(loss, Tensor)
            (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            totals.tokens += tokens
            parts = {"loss": loss, **{f"loss/{name}": term for name, term in terms.items()}}
            if len(terms) == 1:
                parts = {"loss": loss}
            for name, term in parts.items():
                mean = term.detach().double() / len(batches)
                values[name] = values[name] + mean if name in values else mean
    return values


def _refuse_non_finite(step: int, plan: Plan, values: dict[str, Tensor]) -> None:
    if is_finite(*values.values()):
        return
    bad = [name for name, value in values.items() if not math.isfinite(value.item())]
    epoch, batches = plan.batches(step)
    raise NonFiniteLoss(
        step + 1,
        f"{', '.join(bad)} became NaN or infinite at update {step + 1} "
        f"(epoch {epoch + 1}, batches {batches.start + 1} to {batches.stop}): lower the learning "
        "rate, warm up longer, clip the gradients, or train in fp32",
    )


class _Clock:
    """Wall time of one `fit`: what is due, and the ETA."""

    def __init__(
        self, first_step: int, total_steps: int, trained_before_s: float, reporting: Reporting
    ) -> None:
        now = time.monotonic()
        self._first, self._total, self._before_s = first_step, total_steps, trained_before_s
        self._reporting = reporting
        self._start = self._last_progress = self._last_checkpoint = self._last_log = now
        self._logged_tokens: int | None = None

    def trained_s(self) -> float:
        return self._before_s + time.monotonic() - self._start

    def progress_due(self, done: int) -> bool:
        return done in (self._first + 1, self._total) or (
            time.monotonic() - self._last_progress >= PROGRESS_EVERY_S
        )

    def progress(self, done: int) -> dict[str, Any]:
        self._last_progress = time.monotonic()
        eta_s = progress_eta_s(
            done - self._first, self._total - self._first, self._last_progress - self._start
        )
        return {"done": done, "total": self._total, "unit": "updates", "eta_s": eta_s}

    def checkpoint_due(self) -> bool:
        return time.monotonic() - self._last_checkpoint >= self._reporting.checkpoint_every_s

    def checkpoint_saved(self) -> None:
        self._last_checkpoint = time.monotonic()

    def tokens_per_s(self, tokens: int) -> float | None:
        """Throughput since the last call; None at the first, which has nothing to compare."""
        now = time.monotonic()
        before, self._logged_tokens = self._logged_tokens, tokens
        elapsed_s, self._last_log = now - self._last_log, now
        return None if before is None or elapsed_s <= 0 else (tokens - before) / elapsed_s


def _log(training: Training, done: int, factor: float, totals: Totals, clock: _Clock) -> None:
    updates = done - totals.logged_step
    values: dict[str, float] = {
        name: total.item() / updates for name, total in totals.since_log.items()
    }
    values["lr"] = training.optimiser.learning_rate * factor
    values |= training.objective.facts(done - 1)
    rate = clock.tokens_per_s(totals.tokens)
    if rate is not None:
        values["tokens_per_s"] = rate
    training.sink.emit("metrics", step=done, values=values)
    totals.since_log.clear()
    totals.logged_step = done


def _save(
    training: Training,
    done: int,
    optimiser: torch.optim.AdamW,
    names: dict[int, str],
    totals: Totals,
    clock: _Clock,
) -> None:
    totals.trained_s = clock.trained_s()
    path = training.checkpointer.save(
        done,
        training.model,
        optimiser_tensors(optimiser, names),
        {
            "identity": training.identity,
            "precision": training.precision,
            "totals": totals.as_state(),
        },
    )
    clock.checkpoint_saved()
    training.sink.emit("checkpoint", step=done, path=f"{path.parent.name}/{path.name}")


def _result(steps: int, stopped: bool, totals: Totals, clock: _Clock) -> FitResult:
    return FitResult(
        steps=steps,
        stopped=stopped,
        means={name: total.item() / max(1, steps) for name, total in totals.since_start.items()},
        last={name: value.item() for name, value in totals.last.items()},
        tokens=totals.tokens,
        trained_s=clock.trained_s(),
    )
