"""Validates a config against existing runs and datasets before training; reads only.

The checks of model shapes are those of kdcore, which the trainer repeats.
"""

import json
from dataclasses import dataclass, field

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.models import Dataset
from app.errors import FieldProblem, Invalid
from app.runs.models import Run
from app.runs.states import RunState
from kdcore.config import (
    DistillConfig,
    FileCorpus,
    FolderCheckpoint,
    FolderTokenizer,
    FreshStudent,
    PruneConfig,
    RunCheckpoint,
    TeacherConfig,
    UploadCorpus,
    UploadTokenizer,
)
from kdcore.errors import ConfigError
from kdcore.shapes import (
    ModelShape,
    check_distill,
    check_teacher,
    fresh_student_shape,
    pruned_shape,
    scratch_shape,
)

AnyConfig = TeacherConfig | PruneConfig | DistillConfig
SHAPE: TypeAdapter[ModelShape] = TypeAdapter(ModelShape)

_LOCAL = (
    "local paths are not allowed on a server: upload the file and choose 'upload', or use the "
    "result of a run"
)


def json_pointer(path: tuple[str | int, ...]) -> str:
    """RFC 6901: `("layers", "k")` is `/layers/k`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def inputs_of(config: AnyConfig) -> dict[str, str]:
    """The input runs of `config`, by role, which is also the name of the field."""
    fields: dict[str, object]
    match config:
        case TeacherConfig():
            fields = {"model": config.model}
        case PruneConfig():
            fields = {"teacher": config.teacher}
        case DistillConfig():
            fields = {"teacher": config.teacher, "student": config.student}
    return {
        role: reference.run_id
        for role, reference in fields.items()
        if isinstance(reference, RunCheckpoint)
    }


@dataclass
class Findings:
    """Result of the validation: expected shape, inputs and problems."""

    inputs: dict[str, Run] = field(default_factory=dict)
    shape: ModelShape | None = None
    problems: list[FieldProblem] = field(default_factory=list)

    def add_problem(self, path: tuple[str | int, ...], detail: str) -> None:
        """Add a problem with the field at `path`."""
        self.problems.append(FieldProblem(json_pointer(path), detail))

    def raise_if_invalid(self) -> None:
        """Raise Invalid with all problems, if there are any."""
        if self.problems:
            raise Invalid("; ".join(problem.detail for problem in self.problems), self.problems)


def validate(session: Session, config: AnyConfig) -> Findings:
    """Check `config` as far as possible now; never raises for an invalid config.

    The rows of the inputs stay locked until the end of the transaction.
    """
    findings = Findings()
    _refuse_local_paths(config, findings)
    _check_uploads(session, config, findings)
    for role, run_id in inputs_of(config).items():
        _check_input(session, config, role, run_id, findings)
    if not findings.problems:
        shapes = {role: _shape_of_run(run) for role, run in findings.inputs.items()}
        check_shapes(config, shapes, findings)
    return findings


def check_shapes(
    config: AnyConfig, inputs: dict[str, ModelShape | None], findings: Findings
) -> None:
    """Check whether the models are compatible, and set the shape of the result."""
    try:
        match config:
            case TeacherConfig():
                start = scratch_shape(config) or inputs.get("model")
                check_teacher(config, start)
                findings.shape = start
            case PruneConfig():
                teacher = inputs.get("teacher")
                if teacher is not None:
                    findings.shape = pruned_shape(config, teacher)
            case DistillConfig():
                findings.shape = _distilled_shape(config, inputs)
    except ConfigError as error:
        findings.add_problem(error.field, error.message)


def _distilled_shape(
    config: DistillConfig, inputs: dict[str, ModelShape | None]
) -> ModelShape | None:
    teacher = inputs.get("teacher")
    if isinstance(config.student, FreshStudent):
        student = fresh_student_shape(config.student, teacher) if teacher is not None else None
    else:
        student = inputs.get("student")
    if teacher is not None and student is not None:
        check_distill(config, teacher, student)
    return student


def _shape_of_run(run: Run) -> ModelShape | None:
    return SHAPE.validate_python(run.shape) if run.shape is not None else None


def _refuse_local_paths(config: AnyConfig, findings: Findings) -> None:
    for name in ("model", "teacher", "student", "corpus", "tokenizer"):
        if isinstance(getattr(config, name, None), FileCorpus | FolderTokenizer | FolderCheckpoint):
            findings.add_problem((name,), _LOCAL)


def _check_input(
    session: Session, config: AnyConfig, role: str, run_id: str, findings: Findings
) -> None:
    run = session.scalars(
        # Shared lock: an input that ended before our commit would not see the new run, which would
        # then wait forever.
        select(Run).where(Run.id == run_id).with_for_update(read=True, of=Run),
        execution_options={"populate_existing": True},
    ).one_or_none()
    pointer = (role, "run_id")
    if run is None:
        findings.add_problem(pointer, f"there is no run {run_id}; it may have been deleted")
        return
    state = RunState(run.state)
    if state in (RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED):
        findings.add_problem(pointer, f"run {run_id} ended as {state}: it has no result")
    elif state is RunState.CANCELLING:
        findings.add_problem(pointer, f"run {run_id} is being cancelled: it will have no result")
    elif run.files_removed_at is not None:
        findings.add_problem(
            pointer, f"the files of run {run_id} were removed by cleanup: train it again"
        )
    elif isinstance(config, DistillConfig) and role == "teacher" and run.kind == "prune":
        findings.add_problem(
            pointer,
            f"run {run_id} is a pruned student that has not been trained: "
            "choose a teacher or a distilled student",
        )
    else:
        findings.inputs[role] = run


def _check_uploads(session: Session, config: AnyConfig, findings: Findings) -> None:
    corpus = getattr(config, "corpus", None)
    if isinstance(corpus, UploadCorpus):
        for name, dataset_id in (
            ("dataset_id", corpus.dataset_id),
            ("validation_dataset_id", corpus.validation_dataset_id),
        ):
            if dataset_id is not None:
                dataset = _dataset(session, ("corpus", name), dataset_id, "text", findings)
                if dataset is not None:
                    _check_column(corpus, dataset, findings)
                    _check_amount(config, ("corpus", name), dataset, findings)
    tokenizer = getattr(config, "tokenizer", None)
    if isinstance(tokenizer, UploadTokenizer):
        _dataset(session, ("tokenizer", "dataset_id"), tokenizer.dataset_id, "tokenizer", findings)


def _dataset(
    session: Session, path: tuple[str, ...], dataset_id: str, kind: str, findings: Findings
) -> Dataset | None:
    dataset = session.get(Dataset, dataset_id)
    if dataset is None:
        findings.add_problem(path, f"there is no dataset {dataset_id}; it may have been deleted")
        return None
    if dataset.kind != kind:
        findings.add_problem(path, f"dataset {dataset_id} is of kind {dataset.kind}, not {kind}")
        return None
    return dataset


def _check_column(corpus: UploadCorpus, dataset: Dataset, findings: Findings) -> None:
    columns = json.loads(dataset.columns) if dataset.columns else []
    if columns and corpus.column not in columns:
        findings.add_problem(
            ("corpus", "column"),
            f"dataset {dataset.id} ({dataset.name}) has no text column {corpus.column!r}; "
            f"it has {', '.join(map(repr, columns))}",
        )


def _check_amount(
    config: AnyConfig, path: tuple[str, ...], dataset: Dataset, findings: Findings
) -> None:
    """Refuse text that is too short for any tokenizer."""
    corpus = getattr(config, "corpus", None)
    assert isinstance(corpus, UploadCorpus)
    documents = dataset.documents
    if documents is None:
        return
    if documents < 2 and corpus.validation_dataset_id is None:
        findings.add_problem(
            path,
            f"'{dataset.name}' has a single document (line or row), so none can be held out for "
            "evaluation: upload text with line breaks, or choose a validation dataset",
        )
        return
    if dataset.format == "parquet":
        return
    seq_len = getattr(config, "seq_len", None)
    if path[-1] == "validation_dataset_id":
        evaluation = getattr(config, "evaluation", None)
        seq_len = (evaluation and evaluation.seq_len) or seq_len
    # A token has at least one byte; [CLS] and [SEP] are added to every document.
    tokens_at_most = dataset.size_bytes + 2 * documents
    if seq_len is not None and tokens_at_most < seq_len:
        findings.add_problem(
            path,
            f"'{dataset.name}' has at most {tokens_at_most} tokens, fewer than one sequence of "
            f"{seq_len}: upload more text or shorten the sequences",
        )
