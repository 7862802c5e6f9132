"""The single entrance: carries out one run in one folder, and resumes it there.

<out>/checkpoints/step-00000120/   to resume from; the last three
<out>/model/                       the result, in HuggingFace format
<out>/manifest.json                path, size and sha256 of every file of the result
"""

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcore.batches import (
    TokenisedSplit,
    lines,
    pack,
    token_counts,
    tokenise,
    unigram_entropy,
)
from kdcore.checkpoint import (
    Checkpoint,
    Checkpointer,
    disk_full,
    sha256_of,
    write_json,
)
from kdcore.config import (
    Corpus,
    DistillConfig,
    Evaluation,
    FreshStudent,
    PruneConfig,
    RunConfig,
    ScratchModel,
    TeacherConfig,
)
from kdcore.corpora import open_corpus
from kdcore.errors import DataError, DeviceOutOfMemory, HostOutOfMemory
from kdcore.evaluate import EvalResult, HeldOut, heldout_loss
from kdcore.events import Sink
from kdcore.loop import FitResult, Training, fit
from kdcore.machine import (
    ResolvedPrecision,
    describe,
    keep_freed_memory,
    pick_device,
    pick_precision,
)
from kdcore.models import (
    MaskedLM,
    build_student,
    build_teacher,
    checkpoint_folder,
    load_model,
    parameter_count,
    position_embeddings,
    read_notes,
    shape_of,
    start_at_unigram,
)
from kdcore.objectives import DistilObjective, MlmObjective, Objective
from kdcore.prune import prune
from kdcore.result import Summary, publish_result, versions
from kdcore.shapes import check_distill, check_teacher, fresh_student_shape, scratch_shape
from kdcore.tokenizers import Tokens, load_tokenizer, tokens_from_folder

DEFAULT_EVAL_SEQ_LEN = 512


@dataclass(frozen=True)
class Place:
    """Where a run works and whom it talks to."""

    out_dir: Path
    cache_dir: Path
    device: torch.device
    sink: Sink
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Ended:
    """How a run ended: with a summary, or None if it was stopped (it resumes from `step`)."""

    summary: Summary | None
    step: int


def execute(
    config: RunConfig,
    out_dir: Path,
    sink: Sink,
    should_stop: Callable[[], bool] = lambda: False,
    cache_dir: Path | None = None,
    device: str = "auto",
) -> Ended:
    """Carry out `config` in `out_dir`, resuming from its newest checkpoint if it has one.

    Emits the events of `kdcore.events`; raises a KdcoreError that says what to do.
    """
    keep_freed_memory()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    out_dir.mkdir(parents=True, exist_ok=True)
    place = Place(
        out_dir=out_dir,
        cache_dir=cache_dir or out_dir / "cache",
        device=pick_device(device),
        sink=sink,
        should_stop=should_stop,
    )
    sink.emit(
        "started",
        config=config.model_dump(mode="json"),
        versions=versions(),
        device=describe(place.device),
    )
    with _typed_failures(out_dir):
        match config:
            case TeacherConfig():
                return _teacher(config, place)
            case PruneConfig():
                return _prune(config, place)
            case DistillConfig():
                return _distill(config, place)


@contextmanager
def _typed_failures(out_dir: Path) -> Iterator[None]:
    """Give errors of the machine their typed code and an advice."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceOutOfMemory(
            "the device has no memory left: lower schedule.batch_size and raise "
            f"schedule.accumulation_steps by the same factor. {error}"
        ) from error
    except MemoryError as error:
        raise HostOutOfMemory(
            "the machine has no memory left: lower schedule.batch_size"
        ) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise HostOutOfMemory(
                "the machine has no memory left: lower schedule.batch_size and raise "
                f"schedule.accumulation_steps by the same factor. {error}"
            ) from error
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(error, out_dir, 0) from error
        raise


# --------------------------------------------------------------------------------------- text


@dataclass(frozen=True)
class Text:
    """A corpus, cut into tokens."""

    tokens: Tokens
    train: TokenisedSplit
    held_out: HeldOut
    unigram_entropy: float
    """Of the held-out text, in nats: what a model that knows only frequencies reaches."""
    fingerprint: str


def _read_text(
    corpus_config: Corpus,
    load: Callable[[Any], Tokens],
    evaluation: Evaluation,
    eval_seq_len: int,
    place: Place,
) -> Text:
    corpus = open_corpus(corpus_config)
    tokens = load(corpus)
    train = tokenise(corpus, tokens, "train", place.cache_dir, place.sink)
    validation = tokenise(corpus, tokens, "validation", place.cache_dir, place.sink)
    held_out = HeldOut(
        packed=pack(validation, eval_seq_len),
        tokens=tokens,
        mask_rate=evaluation.mask_rate,
        max_sequences=evaluation.max_sequences,
    )
    entropy = unigram_entropy(validation, tokens.vocab_size, tokens.special_ids)
    place.sink.emit(
        "log",
        level="info",
        message=f"{len(train.tokens):,} training tokens, {len(validation.tokens):,} held out; "
        f"the held-out text's unigram entropy is {entropy:.3f} nats",
    )
    return Text(tokens, train, held_out, entropy, corpus.fingerprint)


def _evaluator(
    model: MaskedLM, text: Text, precision: ResolvedPrecision, place: Place
) -> Callable[[int], EvalResult]:
    """A function that evaluates, shows its progress, and emits the metrics of a step."""

    def evaluate(step: int) -> EvalResult:
        start, shown = time.monotonic(), [0.0]

        def on_progress(done: int, total: int) -> None:
            now = time.monotonic()
            if now - shown[0] < 0.5:
                return
            shown[0] = now
            eta_s = (now - start) * (total - done) / done
            place.sink.emit(
                "progress",
                phase="evaluating",
                done=done,
                total=total,
                unit="sequences",
                eta_s=eta_s,
            )

        result = heldout_loss(model, text.held_out, precision, on_progress)
        place.sink.emit(
            "metrics",
            step=step,
            values={"eval/loss": result.loss, "eval/perplexity": result.perplexity},
        )
        return result

    return evaluate


# ------------------------------------------------------------------------------------- teacher


def _teacher(config: TeacherConfig, place: Place) -> Ended:
    check_teacher(config, scratch_shape(config))
    start_folder = (
        None if isinstance(config.model, ScratchModel) else checkpoint_folder(config.model)
    )
    text = _read_text(
        config.corpus,
        lambda corpus: load_tokenizer(
            config.tokenizer, corpus, place.cache_dir, place.sink, start_folder
        ),
        config.evaluation,
        config.evaluation.seq_len or config.seq_len,
        place,
    )
    if start_folder is None:
        assert isinstance(config.model, ScratchModel)
        model: MaskedLM = build_teacher(
            config.model, text.tokens.vocab_size, text.tokens.pad_id, config.seed
        )
        if config.model.unigram_bias:
            counts = token_counts(text.train, text.tokens.vocab_size)
            counts[sorted(text.tokens.special_ids)] = 0  # never to be predicted
            start_at_unigram(model, counts)
    else:
        model = load_model(start_folder)
        _check_vocabulary(model, text.tokens)
        check_teacher(config, shape_of(model))
    model.to(place.device)
    packed = pack(text.train, config.seq_len)
    objective = MlmObjective(config, model, text.tokens, packed)
    fitted, evaluation, precision = _train(config, model, objective, text, [start_folder], place)
    if fitted.stopped:
        return Ended(None, fitted.steps)
    final = evaluation(fitted.steps)
    summary = _trained_summary("teacher", model, text, fitted, final) | {
        "layer_drop": config.layer_drop,
        "train_loss": fitted.means["loss"],
        "precision": precision,
    }
    notes = {"seq_len": config.seq_len, "layer_drop": config.layer_drop}
    return _finish(config, model, text.tokens, summary, notes, fitted.steps, place)


def _check_vocabulary(model: MaskedLM, tokens: Tokens) -> None:
    if tokens.vocab_size > model.config.vocab_size:
        raise DataError(
            f"the tokenizer has {tokens.vocab_size} entries, the checkpoint's embeddings only "
            f"{model.config.vocab_size}: use the tokenizer that belongs to the checkpoint"
        )


# --------------------------------------------------------------------------------------- prune


def _prune(config: PruneConfig, place: Place) -> Ended:
    folder = checkpoint_folder(config.teacher)
    place.sink.emit("progress", phase="pruning", done=0, total=1, unit="models", eta_s=None)
    teacher = load_model(folder)
    student, report = prune(teacher, config)
    tokens = tokens_from_folder(folder)
    if not config.copy_head_transform:
        place.sink.emit(
            "log",
            level="warning",
            message="the MLM head's transform and layer norm start at random, as in the published "
            "setting; copy_head_transform copies them",
        )
    summary: Summary = {
        "role": "pruned",
        "layers": student.config.num_hidden_layers,
        "kept_layers": report.kept_layers,
        "parameters": parameter_count(student),
        "copy_head_transform": config.copy_head_transform,
        "report": report.as_json(),
    }
    notes = {
        **{key: value for key, value in read_notes(folder).items() if key in ("seq_len",)},
        "kept_layers": report.kept_layers,
    }
    place.sink.emit("progress", phase="pruning", done=1, total=1, unit="models", eta_s=0.0)
    return _finish(config, student, tokens, summary, notes, 0, place)


# ------------------------------------------------------------------------------------- distill


def _distill(config: DistillConfig, place: Place) -> Ended:
    teacher_folder = checkpoint_folder(config.teacher)
    teacher = load_model(teacher_folder)
    tokens = tokens_from_folder(teacher_folder)
    student, student_folder = _load_student(config, teacher, tokens)
    longest = min(teacher.config.max_position_embeddings, student.config.max_position_embeddings)
    noted = read_notes(teacher_folder).get("seq_len")
    default_seq_len = noted if isinstance(noted, int) else DEFAULT_EVAL_SEQ_LEN
    eval_seq_len = config.evaluation.seq_len or min(default_seq_len, longest)
    text = _read_text(config.corpus, lambda _: tokens, config.evaluation, eval_seq_len, place)
    teacher.to(place.device).eval().requires_grad_(False)
    student.to(place.device)
    # Without a gradient the optimiser never sees them, so weight decay cannot move them either.
    position_embeddings(student).weight.requires_grad_(not config.freeze_positions)
    text_lines = lines(text.train, tokens, config.lines, longest)
    objective = DistilObjective(
        config, student, teacher, tokens, text_lines, token_counts(text.train, tokens.vocab_size)
    )
    start_eval: list[float] = []
    fitted, evaluation, precision = _train(
        config, student, objective, text, [teacher_folder, student_folder], place, start_eval
    )
    if fitted.stopped:
        return Ended(None, fitted.steps)
    final = evaluation(fitted.steps)
    summary = _trained_summary("student", student, text, fitted, final) | {
        "start_eval_loss": start_eval[0],
        "last_loss": fitted.last["loss"],
        "mean_loss": fitted.means["loss"],
        "layer_drop": read_notes(teacher_folder).get("layer_drop"),
        "precision": precision,
        **{
            f"mean_{name.replace('/', '_')}": value
            for name, value in fitted.means.items()
            if name.startswith("loss/")
        },
    }
    return _finish(config, student, tokens, summary, {"seq_len": eval_seq_len}, fitted.steps, place)


def _load_student(
    config: DistillConfig, teacher: MaskedLM, tokens: Tokens
) -> tuple[MaskedLM, Path | None]:
    teacher_shape = shape_of(teacher, tokens.fingerprint)
    if isinstance(config.student, FreshStudent):
        shape = fresh_student_shape(config.student, teacher_shape)
        check_distill(config, teacher_shape, shape)
        return build_student(shape, teacher, config.seed), None
    folder = checkpoint_folder(config.student)
    student = load_model(folder)
    student_tokens = tokens_from_folder(folder)
    check_distill(config, teacher_shape, shape_of(student, student_tokens.fingerprint))
    return student, folder


# -------------------------------------------------------------------------------------- shared


def _train(
    config: TeacherConfig | DistillConfig,
    model: MaskedLM,
    objective: Objective,
    text: Text,
    inputs: list[Path | None],
    place: Place,
    start_eval: list[float] | None = None,
) -> tuple[FitResult, Callable[[int], EvalResult], ResolvedPrecision]:
    """Fit `model`, resuming from the newest good checkpoint.

    `start_eval`, if given, gets the held-out loss before the first update; a resumed run takes it
    from its checkpoint's folder rather than measuring it again.
    """
    checkpointer = Checkpointer(place.out_dir / "checkpoints")
    resume = _resume(checkpointer, place)
    precision: ResolvedPrecision = (
        resume.state["precision"] if resume else pick_precision(config.precision, place.device)
    )
    if resume is None:
        # A level to draw beside the curves from the first update on.
        values = {"unigram_entropy": text.unigram_entropy}
        place.sink.emit("metrics", step=0, values=values)
    evaluation = _evaluator(model, text, precision, place)
    if start_eval is not None:
        start_eval.append(_start_eval(place.out_dir, evaluation))
    place.sink.emit(
        "log", level="info", message=f"training on {describe(place.device)} in {precision}"
    )

    def evaluate_and_forget(step: int) -> dict[str, float]:
        evaluation(step)
        return {}

    fitted = fit(
        Training(
            model=model,
            objective=objective,
            schedule=config.schedule,
            optimiser=config.optimiser,
            reporting=config.reporting,
            seed=config.seed,
            precision=precision,
            checkpointer=checkpointer,
            identity=_identity(config, text, inputs),
            sink=place.sink,
            should_stop=place.should_stop,
            evaluate=evaluate_and_forget,
            eval_every_steps=config.evaluation.every_steps,
        ),
        resume,
    )
    if fitted.stopped:
        place.sink.emit("stopped", step=fitted.steps)
    return fitted, evaluation, precision


def _start_eval(out_dir: Path, evaluation: Callable[[int], EvalResult]) -> float:
    path = out_dir / "start_eval.json"
    if path.is_file():
        return float(json.loads(path.read_text(encoding="utf-8"))["loss"])
    loss = evaluation(0).loss
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    write_json(temporary, {"loss": loss})
    temporary.replace(path)
    return loss


def _resume(checkpointer: Checkpointer, place: Place) -> Checkpoint | None:
    resume, refused = checkpointer.load_newest()
    for reason in refused:
        place.sink.emit("log", level="warning", message=f"checkpoint passed over: {reason}")
    if resume is not None:
        place.sink.emit("log", level="info", message=f"resuming after update {resume.step}")
    return resume


def _identity(config: TeacherConfig | DistillConfig, text: Text, inputs: list[Path | None]) -> str:
    """Fingerprint of all that decides the weights; where files lie and how often is reported do
    not."""
    plain = config.model_dump(
        mode="json",
        exclude={"reporting", "evaluation", "corpus", "tokenizer", "teacher", "student"}
        | ({"model"} if inputs[0] is not None else set()),
    )
    parts = [plain, text.fingerprint, text.tokens.fingerprint]
    parts += [_weights_fingerprint(folder) for folder in inputs if folder is not None]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _weights_fingerprint(folder: Path) -> str:
    return " ".join(sha256_of(path) for path in sorted(folder.glob("*.safetensors")))


def _trained_summary(
    role: str, model: MaskedLM, text: Text, fitted: FitResult, final: EvalResult
) -> Summary:
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
    }


def _finish(
    config: TeacherConfig | PruneConfig | DistillConfig,
    model: MaskedLM,
    tokens: Tokens,
    summary: Summary,
    notes: dict[str, Any],
    steps: int,
    place: Place,
) -> Ended:
    place.sink.emit("progress", phase="saving", done=0, total=1, unit="models", eta_s=None)
    summary = publish_result(place.out_dir, config, model, tokens, summary, notes)
    place.sink.emit("result", summary=summary, folder="model")
    return Ended(summary, steps)
