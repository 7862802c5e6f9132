"""The single entry point: carries out one run in one folder, and resumes it there.

<out>/checkpoints/step-00000120/   to resume from; the last three
<out>/model/                       the result, in HuggingFace format
<out>/manifest.json                path, size and sha256 of every file of the result
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from kdcore.config import (
    Checkpoint,
    DistillConfig,
    DistillLines,
    FreshStudent,
    PruneConfig,
    RunConfig,
    ScratchModel,
    TeacherConfig,
)
from kdcore.data.batching import lines, pack
from kdcore.data.corpora import CorpusText
from kdcore.data.dataset import Text, read_text
from kdcore.data.token_cache import token_counts
from kdcore.data.tokenizers import TokenizerInfo, has_tokenizer, load_tokenizer, tokens_from_folder
from kdcore.device import pick_device, prepare_process, use_device, why_no_gpu
from kdcore.distributed.process_group import SINGLE_PROCESS, Ranks
from kdcore.errors import ConfigError, DataError
from kdcore.events import Level, Log, PhaseProgress, Progress, RunResult, RunStarted, Sink
from kdcore.inputs import NO_INPUTS, Inputs
from kdcore.loss.objectives import DistillObjective, MlmObjective
from kdcore.model.bert import (
    Loaded,
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
from kdcore.model.prune import prune
from kdcore.shapes import check_distill, check_teacher, fresh_student_shape, scratch_shape
from kdcore.train.context import Completed, RunContext, RunOutcome, Stopped
from kdcore.train.export import Summary, publish_result, versions
from kdcore.train.failures import map_machine_errors
from kdcore.train.trainer import train, trained_summary

DEFAULT_EVAL_SEQ_LEN = 512
Field = Literal["model", "teacher", "student"]


def execute(
    config: RunConfig,
    out_dir: Path,
    sink: Sink,
    should_stop: Callable[[], bool] = lambda: False,
    cache_dir: Path | None = None,
    device: str = "auto",
    ranks: Ranks = SINGLE_PROCESS,
    inputs: Inputs = NO_INPUTS,
) -> RunOutcome:
    """Carry out `config` in `out_dir`, resuming from its newest checkpoint if it has one.

    Emits the events of `kdcore.events`; raises a KdcoreError that says what to do. Where several
    processes carry out the run together, the main process emits the events. `inputs` has the local
    files of what `config` names by an id.
    """
    prepare_process()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    out_dir.mkdir(parents=True, exist_ok=True)
    with map_machine_errors(out_dir):
        use_device(own_device := pick_device(device))
        context = RunContext(
            out_dir=out_dir,
            cache_dir=cache_dir or out_dir / "cache",
            device=own_device,
            sink=sink,
            should_stop=should_stop,
            ranks=ranks,
            inputs=inputs,
        )
        sink.emit(
            RunStarted(
                config=config.model_dump(mode="json"),
                versions=versions(),
                device=context.describe(),
            )
        )
        if device.startswith("auto") and (reason := why_no_gpu()):
            message = f"training on the CPU, since no GPU can be used: {reason}"
            sink.emit(Log(level="warning", message=message))
        match config:
            case TeacherConfig():
                return _teacher(config, context)
            case PruneConfig():
                return _prune(config, context)
            case DistillConfig():
                return _distill(config, context)


# ------------------------------------------------------------------------------------- teacher


def _teacher(config: TeacherConfig, context: RunContext) -> RunOutcome:
    check_teacher(config, scratch_shape(config))
    start_folder, start = None, None
    if not isinstance(config.model, ScratchModel):
        # Before the text, which may take long to read.
        start_folder = _checkpoint_folder(config.model, "model", context)
        start = _load(start_folder, "model", context, head_seed=config.seed)
        check_teacher(config, shape_of(start.model))

    def load(corpus: CorpusText) -> TokenizerInfo:
        wanted = context.inputs.tokenizer_of(config.tokenizer)
        tokenizer = load_tokenizer(wanted, corpus, context.cache_dir, context.sink, start_folder)
        if start_folder is not None:
            _check_start(tokenizer, start_folder, context)
        return tokenizer

    text = read_text(
        context.inputs.corpus_of(config.corpus),
        load,
        config.evaluation,
        config.evaluation.seq_len or config.seq_len,
        context.sink,
        context.cache_dir,
        context.ranks,
    )
    if start is not None:
        model = start.model
        _check_vocabulary(model, text.tokenizer)
    else:
        assert isinstance(config.model, ScratchModel)
        model = build_teacher(
            config.model, text.tokenizer.vocab_size, text.tokenizer.pad_id, config.seed
        )
        if config.model.unigram_bias:
            counts = token_counts(text.train, text.tokenizer.vocab_size)
            counts[sorted(text.tokenizer.special_ids)] = 0  # never to be predicted
            start_at_unigram(model, counts)
    if distil_lines := config.distil_lines or context.inputs.distil_lines:
        _check_distil_lines(distil_lines, text, model.config.max_position_embeddings)
    model.to(context.device)
    packed = pack(text.train, config.seq_len)
    objective = MlmObjective(config, model, text.tokenizer, packed)
    trained = train(config, model, objective, text, [start_folder], context)
    if isinstance(trained, Stopped):
        return trained
    summary = trained_summary("teacher", model, text, trained.fit) | {
        "layer_drop": config.layer_drop,
        "train_loss": trained.fit.means["loss"],
        "precision": trained.precision,
    }
    if start is not None and start.fresh:
        summary["fresh_tensors"] = start.fresh
    notes = {"seq_len": config.seq_len, "layer_drop": config.layer_drop}
    return _finish(config, model, text.tokenizer, summary, notes, context)


def _check_start(tokenizer: TokenizerInfo, folder: Path, context: RunContext) -> None:
    """Raise ConfigError if the checkpoint in `folder` was trained with another tokenizer."""
    reason = "it has no tokenizer files"
    if has_tokenizer(folder):
        try:
            own = tokens_from_folder(folder)
        except DataError as error:
            reason = str(error)
        else:
            if own.fingerprint == tokenizer.fingerprint:
                return
            raise ConfigError(
                ("tokenizer",),
                "the checkpoint that the teacher starts from was trained with another tokenizer: "
                "every embedding would belong to another token. Choose 'model' to use the "
                "checkpoint's own",
            )
    message = (
        "whether the tokenizer is the one that the checkpoint was trained with cannot be "
        f"checked ({reason}); only the vocabulary's size is compared"
    )
    context.sink.emit(Log(level="warning", message=message))


def _check_distil_lines(options: DistillLines, text: Text, max_positions: int) -> None:
    """Raise DataError if a distillation would find no line in the text."""
    try:
        lines(text.train, text.tokenizer, options, max_positions)
    except DataError as error:
        raise DataError(f"the distillation after this teacher would fail: {error}") from error


def _check_vocabulary(model: MaskedLM, tokenizer: TokenizerInfo) -> None:
    if tokenizer.vocab_size > model.config.vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the checkpoint's embeddings only "
            f"{model.config.vocab_size}: use the tokenizer that belongs to the checkpoint"
        )


# --------------------------------------------------------------------------------------- prune


def _prune(config: PruneConfig, context: RunContext) -> RunOutcome:
    if not context.ranks.is_main_process:
        return Completed({})
    folder = _checkpoint_folder(config.teacher, "teacher", context)
    progress = PhaseProgress(context.sink, "pruning", 1, "models")
    teacher = _load(folder, "teacher", context).model
    student, report = prune(teacher, config)
    tokenizer = tokens_from_folder(folder)
    _check_vocabulary(teacher, tokenizer)
    if not config.copy_head_transform:
        message = (
            "the MLM head's transform and layer norm are randomly initialised, as in the published "
            "setting; copy_head_transform copies them"
        )
        context.sink.emit(Log(level="warning", message=message))
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
        "fresh_tensors": report.fresh,
    }
    progress.finish()
    return _finish(config, student, tokenizer, summary, notes, context)


# ------------------------------------------------------------------------------------- distill


def _distill(config: DistillConfig, context: RunContext) -> RunOutcome:
    teacher_folder = _checkpoint_folder(config.teacher, "teacher", context)
    teacher = _load(teacher_folder, "teacher", context).model
    tokenizer = tokens_from_folder(teacher_folder)
    _check_vocabulary(teacher, tokenizer)
    student, student_folder = _load_student(config, teacher, tokenizer, context)
    longest = min(teacher.config.max_position_embeddings, student.config.max_position_embeddings)
    noted = read_notes(teacher_folder).get("seq_len")
    default_seq_len = noted if isinstance(noted, int) else DEFAULT_EVAL_SEQ_LEN
    eval_seq_len = config.evaluation.seq_len or min(default_seq_len, longest)
    text = read_text(
        context.inputs.corpus_of(config.corpus),
        lambda _: tokenizer,
        config.evaluation,
        eval_seq_len,
        context.sink,
        context.cache_dir,
        context.ranks,
    )
    teacher.to(context.device).eval().requires_grad_(False)
    student.to(context.device)
    # Without a gradient the optimiser never sees them, so weight decay cannot move them either.
    position_embeddings(student).weight.requires_grad_(not config.freeze_positions)
    text_lines = lines(text.train, tokenizer, config.lines, longest)
    message = (
        f"distilling on {len(text_lines):,} lines; {text_lines.too_short:,} were "
        f"dropped as too short, {text_lines.too_unknown:,} for too many unknown tokens; "
        f"{text_lines.split:,} were split"
    )
    context.sink.emit(Log(message=message))
    objective = DistillObjective(
        config,
        student,
        teacher,
        tokenizer,
        text_lines,
        token_counts(text.train, tokenizer.vocab_size),
    )
    inputs = [teacher_folder, student_folder]
    trained = train(config, student, objective, text, inputs, context, evaluate_start=True)
    if isinstance(trained, Stopped):
        return trained
    fitted = trained.fit
    summary = trained_summary("student", student, text, fitted) | {
        "start_eval_loss": trained.start_eval_loss,
        "last_loss": fitted.last["loss"],
        "mean_loss": fitted.means["loss"],
        "layer_drop": read_notes(teacher_folder).get("layer_drop"),
        **text_lines.figures(),
        "precision": trained.precision,
        **{
            f"mean_{name.replace('/', '_')}": value
            for name, value in fitted.means.items()
            if name.startswith("loss/")
        },
    }
    return _finish(config, student, tokenizer, summary, {"seq_len": eval_seq_len}, context)


def _load_student(
    config: DistillConfig, teacher: MaskedLM, tokenizer: TokenizerInfo, context: RunContext
) -> tuple[MaskedLM, Path | None]:
    teacher_shape = shape_of(teacher, tokenizer.fingerprint)
    if isinstance(config.student, FreshStudent):
        shape = fresh_student_shape(config.student, teacher_shape)
        check_distill(config, teacher_shape, shape)
        return build_student(shape, teacher, config.seed), None
    folder = _checkpoint_folder(config.student, "student", context)
    student = _load(folder, "student", context).model
    student_tokens = tokens_from_folder(folder)
    if student_tokens.fingerprint != tokenizer.fingerprint:
        raise ConfigError(("student",), "student and teacher were made with different tokenizers")
    check_distill(config, teacher_shape, shape_of(student, student_tokens.fingerprint))
    return student, folder


# -------------------------------------------------------------------------------------- shared


def _checkpoint_folder(checkpoint: Checkpoint, field: Field, context: RunContext) -> Path:
    """The folder of the checkpoint that `field` of the config names."""
    try:
        return checkpoint_folder(checkpoint, getattr(context.inputs, field))
    except DataError as error:
        raise type(error)(f"{field}: {error}") from error


def _load(folder: Path, field: Field, context: RunContext, head_seed: int | None = None) -> Loaded:
    """`load_model` of the checkpoint that `field` of the config names; logs what did not match."""
    try:
        loaded = load_model(folder, head_seed)
    except DataError as error:
        raise DataError(f"{field}: {error}") from error
    untrained = read_notes(folder).get("fresh_tensors")
    if field == "teacher" and isinstance(untrained, list) and untrained:
        raise DataError(
            f"teacher: {folder} was pruned with a random MLM head and never trained since, so its "
            f"predictions are random ({', '.join(map(str, untrained))}): distill it first, and use "
            "the result of that run here"
        )
    notices: list[tuple[Level, list[str], str]] = [
        ("warning", loaded.fresh, "has no MLM head, so it is randomly initialised"),
        ("info", loaded.unused, "contains tensors that are not used"),
    ]
    for level, names, what in notices:
        if names:
            message = f"{field}: {folder} {what}: {', '.join(names)}"
            context.sink.emit(Log(level=level, message=message))
    return loaded


def _finish(
    config: TeacherConfig | PruneConfig | DistillConfig,
    model: MaskedLM,
    tokenizer: TokenizerInfo,
    summary: Summary,
    notes: dict[str, Any],
    context: RunContext,
) -> Completed:
    if not context.ranks.is_main_process:
        return Completed(summary)
    context.sink.emit(Progress(phase="saving", done=0, total=1, unit="models"))
    shape = publish_result(context.out_dir, config, model, tokenizer, summary, notes)
    context.sink.emit(RunResult(summary=summary, shape=shape))
    return Completed(summary)
