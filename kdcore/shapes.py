"""Model shapes, and whether the models of a run fit together; imports no torch.

The server makes these checks when a run is submitted, the trainer makes them again when it starts.
"""

from dataclasses import dataclass
from typing import Literal

from kdcore.config import (
    DistillConfig,
    EveryOther,
    Explicit,
    FirstK,
    FreshStudent,
    LastK,
    LayersToKeep,
    PruneOptions,
    ScratchModel,
    Spread,
    TeacherConfig,
)
from kdcore.errors import ConfigError

DISTILBERT_EPS = 1e-12
"""Epsilon of DistilBERT's layer norms; its config cannot change it."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers that decide whether two models fit together."""

    family: Literal["bert", "distilbert"]
    layers: int
    hidden_size: int
    heads: int
    intermediate_size: int
    max_positions: int
    vocab_size: int | None = None
    """None while the vocabulary is not yet trained or loaded."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer; None while unknown."""
    layer_norm_eps: float = DISTILBERT_EPS


def scratch_shape(config: TeacherConfig) -> ModelShape | None:
    """Shape of the teacher that `config` builds; None if it starts from a checkpoint."""
    model = config.model
    if not isinstance(model, ScratchModel):
        return None
    return ModelShape(
        family="bert",
        layers=model.layers,
        hidden_size=model.hidden_size,
        heads=model.heads,
        intermediate_size=model.intermediate_size,
        max_positions=model.max_positions,
    )


def layers_to_keep(choice: LayersToKeep, teacher_layers: int) -> list[int]:
    """The teacher's layers that `choice` keeps, in ascending order, counted from 0.

    Raises ConfigError, with a field below `layers`, if the teacher does not have them.
    """
    match choice:
        case EveryOther():
            return list(range(0, teacher_layers, 2))
        case Explicit(layers=layers):
            beyond = [layer for layer in layers if layer >= teacher_layers]
            if beyond:
                raise ConfigError(
                    ("layers", "layers"),
                    f"the teacher has {teacher_layers} layers, 0 to {teacher_layers - 1}; "
                    f"it has no layer {beyond[0]}",
                )
            return list(layers)
        case FirstK(k=k) | LastK(k=k) | Spread(k=k):
            if k > teacher_layers:
                raise ConfigError(
                    ("layers", "k"),
                    f"cannot keep {k} layers of a teacher that has {teacher_layers}",
                )
            if isinstance(choice, FirstK):
                return list(range(k))
            if isinstance(choice, LastK):
                return list(range(teacher_layers - k, teacher_layers))
            if k == 1:
                return [0]
            # Halves round up, as in DistilBERT's 12 -> 0,2,4,7,9,11.
            return [
                (2 * index * (teacher_layers - 1) + k - 1) // (2 * (k - 1)) for index in range(k)
            ]


def pruned_shape(options: PruneOptions, teacher: ModelShape) -> ModelShape:
    """Shape of the student that `options` cuts from `teacher`.

    Raises ConfigError if the teacher does not have the layers or does not fit the architecture.
    """
    kept = layers_to_keep(options.layers, teacher.layers)
    if teacher.family == "distilbert" and options.student_family == "bert":
        raise ConfigError(
            ("student_family",),
            "a DistilBERT teacher has no token types and no pooler, which a BERT student needs: "
            "choose 'distilbert'",
        )
    if options.student_family == "distilbert" and teacher.layer_norm_eps != DISTILBERT_EPS:
        raise ConfigError(
            ("student_family",),
            f"the teacher's layer_norm_eps is {teacher.layer_norm_eps:g}, a DistilBERT's is always "
            f"{DISTILBERT_EPS:g}: choose 'bert', which keeps the teacher's",
        )
    return ModelShape(
        family=options.student_family,
        layers=len(kept),
        hidden_size=teacher.hidden_size,
        heads=teacher.heads,
        intermediate_size=teacher.intermediate_size,
        max_positions=teacher.max_positions,
        vocab_size=teacher.vocab_size,
        tokenizer=teacher.tokenizer,
        layer_norm_eps=teacher.layer_norm_eps,
    )


def fresh_student_shape(student: FreshStudent, teacher: ModelShape) -> ModelShape:
    """Shape of a new student for `teacher`; raises ConfigError if it is wider."""
    hidden_size = student.hidden_size or teacher.hidden_size
    field: tuple[str, ...] = ("student", "hidden_size")
    if hidden_size > teacher.hidden_size:
        raise ConfigError(
            field,
            f"hidden size {hidden_size} is larger than the teacher's {teacher.hidden_size}",
        )
    if hidden_size % teacher.heads:
        raise ConfigError(
            field,
            f"hidden size {hidden_size} must be a multiple of the teacher's {teacher.heads} heads",
        )
    return ModelShape(
        family=student.family,
        layers=student.layers,
        hidden_size=hidden_size,
        heads=teacher.heads,
        intermediate_size=max(1, teacher.intermediate_size * hidden_size // teacher.hidden_size),
        max_positions=teacher.max_positions,
        vocab_size=teacher.vocab_size,
        tokenizer=teacher.tokenizer,
        layer_norm_eps=teacher.layer_norm_eps if student.family == "bert" else DISTILBERT_EPS,
    )


def check_teacher(config: TeacherConfig, start: ModelShape | None) -> None:
    """Raise ConfigError if `config` does not fit its initial model (None: not known yet)."""
    if start is None:
        return
    if config.evaluation.seq_len is not None:
        _check_length(("evaluation", "seq_len"), config.evaluation.seq_len, start.max_positions)
    if start.family != "bert":
        raise ConfigError(
            ("model",), f"a teacher must be a BERT; this checkpoint is a {start.family}"
        )
    _check_length(("seq_len",), config.seq_len, start.max_positions)
    if config.distil_lines is not None:
        least = config.distil_lines.min_tokens
        _check_length(("distil_lines", "min_tokens"), least, start.max_positions)


def _check_length(field: tuple[str, ...], tokens: int | None, max_positions: int) -> None:
    if tokens is not None and tokens > max_positions:
        raise ConfigError(
            field,
            f"sequences of {tokens} tokens are longer than the model's {max_positions} positions",
        )


def check_distill(config: DistillConfig, teacher: ModelShape, student: ModelShape) -> None:
    """Raise ConfigError, naming the field, if `student` cannot learn from `teacher`."""
    if student.hidden_size > teacher.hidden_size:
        raise ConfigError(
            ("student",),
            f"the student's hidden size {student.hidden_size} is larger than the teacher's "
            f"{teacher.hidden_size}",
        )
    if student.layers > teacher.layers:
        raise ConfigError(
            ("student",),
            f"the student has {student.layers} layers, more than its teacher's {teacher.layers}",
        )
    if config.loss.alpha_cos > 0 and student.hidden_size != teacher.hidden_size:
        raise ConfigError(
            ("loss", "alpha_cos"),
            f"the cosine loss requires equal hidden sizes, but the student has "
            f"{student.hidden_size} and the teacher {teacher.hidden_size}: set alpha_cos to 0",
        )
    if None not in (teacher.vocab_size, student.vocab_size) and (
        teacher.vocab_size != student.vocab_size
    ):
        raise ConfigError(
            ("student",),
            f"the student's vocabulary has {student.vocab_size} entries, the teacher's "
            f"{teacher.vocab_size}: both must use the same tokenizer",
        )
    if _other_tokenizer(teacher.tokenizer, student.tokenizer):
        raise ConfigError(("student",), "student and teacher use different tokenizers")
    longest = min(teacher.max_positions, student.max_positions)
    _check_length(("lines", "max_tokens"), config.lines.max_tokens, longest)
    if config.lines.min_tokens > longest:
        raise ConfigError(
            ("lines", "min_tokens"),
            f"lines of at least {config.lines.min_tokens} tokens are longer than the models' "
            f"{longest} positions: no line would be left",
        )
    _check_length(("evaluation", "seq_len"), config.evaluation.seq_len, longest)


def _other_tokenizer(one: str | None, other: str | None) -> bool:
    """Whether two fingerprints are known and belong to different tokenizers."""
    if one is None or other is None:
        return False
    if ("+" in one) != ("+" in other):
        # Releases up to 0.1 stored the first part alone; trainers compare the tokenizers' files.
        return one.split("+")[0] != other.split("+")[0]
    return one != other
