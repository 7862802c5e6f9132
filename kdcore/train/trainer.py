"""A training with its surroundings: resumed from its checkpoint, evaluated, summarised."""

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdcore.config import DistillConfig, TeacherConfig
from kdcore.data.dataset import Text
from kdcore.device import (
    ResolvedPrecision,
    emulates_bf16,
    pick_max_tokens_per_microbatch,
    pick_precision,
)
from kdcore.errors import NonFiniteLoss
from kdcore.events import Log, Metrics, PhaseProgress, RunStopped
from kdcore.files import json_bytes, sha256_of, write_atomically
from kdcore.loss.objectives import Objective
from kdcore.model.bert import MaskedLM, parameter_count, shape_of
from kdcore.train.checkpoint import Checkpoint, Checkpointer
from kdcore.train.context import RunContext, Stopped
from kdcore.train.evaluate import EvalResult, StopRequested, heldout_loss
from kdcore.train.export import Summary
from kdcore.train.loop import NOT_REPRODUCIBLE, FitResult, Training, fit


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    fit: FitResult
    precision: ResolvedPrecision
    start_eval_loss: float | None
    """The held-out loss before the first step, if that was asked for."""


def train(
    config: TeacherConfig | DistillConfig,
    model: MaskedLM,
    objective: Objective,
    text: Text,
    inputs: list[Path | None],
    context: RunContext,
    *,
    evaluate_start: bool = False,
) -> TrainResult | Stopped:
    """Fit `model`, resuming from the newest good checkpoint.

    `evaluate_start` asks for the held-out loss before the first step; a resumed run reads it from
    its folder rather than measuring it again.
    """
    checkpointer = Checkpointer(context.out_dir / "checkpoints")
    resume, ranks = _resume(checkpointer, context), context.ranks
    identity = _identity(config, text, inputs)
    ranks.check_equal("what they train", [identity, resume.step if resume else 0])
    precision: ResolvedPrecision = (
        resume.state["precision"]
        if resume
        else ranks.all_gather_json(pick_precision(config.precision, context.device))[0]
    )
    max_tokens_per_microbatch = _max_tokens_per_microbatch(model, context, resume)
    if resume is None:
        # A level to draw beside the curves from the first step on.
        values = {"unigram_entropy": text.unigram_entropy}
        context.sink.emit(Metrics(step=0, values=values))
    evaluation = _evaluator(model, text, precision, context)
    start_eval_loss = None
    if evaluate_start:
        with suppress(StopRequested):  # which `fit` is asked for next
            start_eval_loss = _start_eval(context, evaluation)
    context.sink.emit(Log(message=f"training on {context.describe()} in {precision}"))
    if precision == "bf16" and any(ranks.all_gather_json(emulates_bf16(context.device))):
        message = "this GPU does not support bf16 and emulates it: fp32 is faster here"
        context.sink.emit(Log(level="warning", message=message))

    fitted = fit(
        Training(
            model=model,
            objective=objective,
            schedule=config.schedule,
            optimiser=config.optimiser,
            reporting=config.reporting,
            seed=config.seed,
            precision=precision,
            max_tokens_per_microbatch=max_tokens_per_microbatch,
            checkpointer=checkpointer,
            identity=identity,
            sink=context.sink,
            should_stop=context.should_stop,
            evaluate=evaluation,
            eval_every_steps=config.evaluation.every_steps,
            ranks=ranks,
        ),
        resume,
    )
    if isinstance(fitted, Stopped):
        context.sink.emit(RunStopped(step=fitted.step))
        return fitted
    return TrainResult(fitted, precision, start_eval_loss)


_STILL_FITS = 0.75
"""Share of the free memory up to which a resumed training keeps the size of its microbatches: more
than at its start, so that a little more or less free memory changes no bit."""


def _max_tokens_per_microbatch(
    model: MaskedLM, context: RunContext, resume: Checkpoint | None
) -> int:
    """As many tokens as fit all devices; of a resumed training, no more than before."""
    shape, device, ranks = shape_of(model), context.device, context.ranks
    if resume is None:
        return int(min(ranks.all_gather_json(pick_max_tokens_per_microbatch(shape, device))))
    before = int(resume.state["tokens_at_once"])
    fitting = int(
        min(ranks.all_gather_json(pick_max_tokens_per_microbatch(shape, device, _STILL_FITS)))
    )
    if fitting < before:
        message = (
            f"microbatch size reduced from {before:,} to {fitting:,} tokens, since the device "
            f"has less free memory: {NOT_REPRODUCIBLE}"
        )
        context.sink.emit(Log(message=message))
    return min(before, fitting)


def _evaluator(
    model: MaskedLM, text: Text, precision: ResolvedPrecision, context: RunContext
) -> Callable[[int], EvalResult]:
    """A function that evaluates, shows its progress, and emits the metrics of a step; it raises
    StopRequested."""

    def evaluate(step: int) -> EvalResult:
        progress = PhaseProgress(context.sink, "evaluating", len(text.held_out), "sequences")
        result = heldout_loss(
            model, text.held_out, precision, progress.update, context.ranks, context.should_stop
        )
        values = {"eval/loss": result.loss, "eval/perplexity": result.perplexity}
        context.sink.emit(Metrics(step=step, values=values))
        if not math.isfinite(result.loss):
            raise NonFiniteLoss(
                step,
                f"the held-out loss is NaN or infinite after step {step}: the checkpoint it "
                "started from is broken, or the learning rate or the weight decay is too high",
            )
        return result

    return evaluate


def _start_eval(context: RunContext, evaluation: Callable[[int], EvalResult]) -> float:
    path = context.out_dir / "start_eval.json"
    known = json.loads(path.read_text(encoding="utf-8"))["loss"] if path.is_file() else None
    known = context.ranks.all_gather_json(known)[0]
    if known is not None:
        return float(known)
    measured = evaluation(0)
    if context.ranks.is_main_process:
        with write_atomically(path) as file:
            file.write(json_bytes({"loss": measured.loss}))
    return measured.loss


def _resume(checkpointer: Checkpointer, context: RunContext) -> Checkpoint | None:
    resume, refused = checkpointer.load_newest()
    for reason in refused:
        context.sink.emit(Log(level="warning", message=f"checkpoint skipped: {reason}"))
    if resume is not None:
        context.sink.emit(Log(message=f"resuming from step {resume.step}"))
        world = resume.state.get("world", 1)
        if world != context.ranks.world:
            message = (
                f"resuming on {context.ranks.world} devices instead of {world}: {NOT_REPRODUCIBLE}"
            )
            context.sink.emit(Log(message=message))
    return resume


def _identity(config: TeacherConfig | DistillConfig, text: Text, inputs: list[Path | None]) -> str:
    """Fingerprint of all that decides the weights; file locations and reporting intervals do
    not."""
    plain = config.model_dump(
        mode="json",
        exclude={"reporting", "evaluation", "corpus", "tokenizer", "teacher", "student"}
        | {"distil_lines"}
        | ({"model"} if inputs[0] is not None else set()),
    )
    parts = [plain, text.fingerprint, text.tokenizer.fingerprint]
    parts += [_weights_fingerprint(folder) for folder in inputs if folder is not None]
    if text.train.facts.special_tokens:
        # Release 0.1 split them: a run that it began on such text cannot be resumed here.
        parts.append("special tokens in the text are kept whole")
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _weights_fingerprint(folder: Path) -> str:
    return " ".join(sha256_of(path) for path in sorted(folder.glob("*.safetensors")))


def trained_summary(role: str, model: MaskedLM, text: Text, fitted: FitResult) -> Summary:
    final = fitted.evaluated
    return {
        "role": role,
        "layers": model.config.num_hidden_layers,
        "eval_loss": final.loss,
        "eval_perplexity": final.perplexity,
        "unigram_entropy": text.unigram_entropy,
        "steps": fitted.steps,
        "tokens": fitted.tokens,
        "tokens_per_s": fitted.tokens / fitted.trained_s if fitted.trained_s > 0 else None,
        "elapsed_s": fitted.trained_s,
        "parameters": parameter_count(model),
        **text.figures(),
    }
