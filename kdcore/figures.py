"""The figures that a run yields: one name, label, unit and format each; imports no torch.

`RESULTS` describes the keys of a run's result, `CURVES` the names of its metrics. The page, the
command line, the report and the model card all write figures by this table. A figure that is not
in it, of an older or newer release, is shown under its name.
"""

from collections.abc import Mapping
from typing import Any, Literal

from kdcore.config import Kind, Settings

Format = Literal["decimal", "integer", "short", "percent", "duration", "plain"]
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400


class Figure(Settings):
    """What a figure is called, what it means and how it is written."""

    name: str
    """Key of a run's `result`, or name of a metric series."""
    label: str
    """Name to display."""
    description: str = ""
    """What it measures, and when it may be compared."""
    unit: str | None = None
    """Unit of the value as it is stored."""
    format: Format = "decimal"
    """How to write it: `decimal` with `digits` decimals, `integer`, `short` (1.2k, 66.4M),
    `percent` of a share of 1, `duration` of seconds, or `plain` for anything else."""
    digits: int = 4
    """Decimals of a `decimal`."""
    better: Literal["lower", "higher"] | None = None
    """Which direction is better, if any."""
    kinds: tuple[Kind, ...] = ("teacher", "distill")
    """Kinds of run that have it."""

    def text(self, value: Any) -> str:
        """`value` as people read it, with its unit; "-" if there is none."""
        if value is None:
            return "-"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return _plain(value)
        match self.format:
            case "percent":
                return _percent(value)
            case "duration":
                return _duration(value)
            case "short":
                written = _short(value)
            case "integer":
                written = f"{value:,.0f}"
            case "decimal" if not isinstance(value, int):
                tiny = 0 < abs(value) < 10 ** (1 - self.digits)
                written = f"{value:.2e}" if tiny else f"{value:,.{self.digits}f}"
            case _:
                written = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{written} {self.unit}" if self.unit else written


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        words = all(isinstance(each, str) for each in value)
        return ("; " if words else ", ").join(map(str, value))
    return str(value)


def _percent(share: float) -> str:
    """A small share is never written as none."""
    if share == 0:
        return "0 %"
    return "< 0.01 %" if 0 < share < 1e-4 else f"{100 * share:.2f} %"


def _short(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # Rounded first: 999,950 is 1.0M, not 1000.0k.
        if round(abs(value) / (limit / 1000), 1) >= 1000:
            return f"{value / limit:.1f}{letter}"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S:02} s"
    if whole < DAY_S:
        return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S} min"
    return f"{whole // DAY_S} d {whole % DAY_S // HOUR_S} h"


def _unknown_text(prefix: str, where: str) -> tuple[Figure, ...]:
    return (
        Figure(
            name=f"{prefix}unknown_token_share",
            label=f"Unknown tokens ({where})",
            description=f"Share of the {where} text's tokens that are [UNK].",
            format="percent",
            better="lower",
        ),
        Figure(
            name=f"{prefix}unknown_character_share",
            label=f"Unknown characters ({where})",
            description=f"Share of the {where} text's characters inside [UNK] tokens.",
            format="percent",
            better="lower",
        ),
        Figure(
            name=f"{prefix}removed_character_share",
            label=f"Removed characters ({where})",
            description=f"Share of the {where} text's characters that the tokenizer removes, such "
            "as accents and control characters.",
            format="percent",
            better="lower",
        ),
    )


ALL_KINDS: tuple[Kind, ...] = ("teacher", "prune", "distill")
TEACHER: tuple[Kind, ...] = ("teacher",)
PRUNE: tuple[Kind, ...] = ("prune",)
DISTILL: tuple[Kind, ...] = ("distill",)
LOSS_TERMS = {
    "ce": "soft-target loss",
    "mlm": "MLM loss",
    "cos": "cosine loss",
    "mse": "logit MSE",
}

RESULTS: tuple[Figure, ...] = (
    Figure(
        name="role",
        label="Role",
        description="Role of the model: teacher, pruned or student.",
        format="plain",
        kinds=ALL_KINDS,
    ),
    Figure(
        name="eval_loss",
        label="Eval loss",
        description="MLM loss on held-out text with uniform masks that depend on the text only. "
        "Comparable between all runs with the same evaluation text, tokenizer and settings.",
        unit="nats",
        better="lower",
    ),
    Figure(
        name="eval_perplexity",
        label="Perplexity",
        description="exp(eval loss). Comparable where the eval loss is.",
        digits=2,
        better="lower",
    ),
    Figure(
        name="start_eval_loss",
        label="Eval loss before distillation",
        description="Eval loss of the student before its first step. Comparable with the eval "
        "loss.",
        unit="nats",
        better="lower",
        kinds=DISTILL,
    ),
    Figure(
        name="unigram_entropy",
        label="Unigram entropy",
        description="Entropy of the held-out tokens: the eval loss of a model that knows only "
        "word frequencies.",
        unit="nats",
    ),
    Figure(
        name="train_loss",
        label="Train loss",
        description="MLM loss on the training text, averaged over the run, with dropout and "
        "LayerDrop. Not comparable with the eval loss.",
        unit="nats",
        better="lower",
        kinds=TEACHER,
    ),
    Figure(
        name="last_loss",
        label="Last loss",
        description="Weighted distillation loss of the last logged step. Comparable only between "
        "students of the same teacher with the same temperature and loss weights.",
        better="lower",
        kinds=DISTILL,
    ),
    Figure(
        name="mean_loss",
        label="Mean loss",
        description="Weighted distillation loss, averaged over the run. Comparable only between "
        "students of the same teacher with the same temperature and loss weights.",
        better="lower",
        kinds=DISTILL,
    ),
    *(
        Figure(
            name=f"mean_loss_{term}",
            label=f"Mean {label}",
            description=f"Unweighted {label}, averaged over the run.",
            better="lower",
            kinds=DISTILL,
        )
        for term, label in LOSS_TERMS.items()
    ),
    Figure(
        name="layers",
        label="Layers",
        description="Number of encoder layers.",
        format="integer",
        kinds=ALL_KINDS,
    ),
    Figure(
        name="kept_layers",
        label="Kept layers",
        description="The teacher's layers that the student keeps, counted from 0.",
        format="plain",
        kinds=PRUNE,
    ),
    Figure(
        name="layer_drop",
        label="LayerDrop rate",
        description="Probability of skipping a layer in training; of a student, its teacher's.",
        format="plain",
    ),
    Figure(
        name="parameters",
        label="Parameters",
        description="Number of weights; tied weights count once.",
        format="short",
        kinds=ALL_KINDS,
    ),
    Figure(
        name="copy_head_transform",
        label="MLM head copied",
        description="Whether the transform and layer norm of the teacher's MLM head were copied.",
        format="plain",
        kinds=PRUNE,
    ),
    Figure(
        name="steps",
        label="Steps",
        description="Optimizer steps.",
        format="integer",
    ),
    Figure(
        name="tokens",
        label="Tokens",
        description="Tokens trained on, without padding; every epoch counts.",
        format="short",
    ),
    Figure(
        name="tokens_per_s",
        label="Throughput",
        description="Tokens per second of training time.",
        unit="tokens/s",
        format="short",
        better="higher",
    ),
    Figure(
        name="elapsed_s",
        label="Training time",
        description="Time spent on training steps, all attempts included; evaluations and "
        "checkpoints are not.",
        unit="s",
        format="duration",
    ),
    Figure(
        name="precision",
        label="Precision",
        description="Precision that the run was trained in.",
        format="plain",
    ),
    Figure(
        name="documents",
        label="Documents",
        description="Documents of the training text.",
        format="integer",
    ),
    Figure(
        name="blank_documents",
        label="Empty documents",
        description="Rows without text, which are skipped.",
        format="integer",
    ),
    *_unknown_text("", "training"),
    *_unknown_text("eval_", "held-out"),
    Figure(
        name="lines",
        label="Lines",
        description="Lines of text distilled on.",
        format="integer",
        kinds=DISTILL,
    ),
    Figure(
        name="lines_split",
        label="Lines split",
        description="Lines that were split because they were too long.",
        format="integer",
        kinds=DISTILL,
    ),
    Figure(
        name="lines_too_short",
        label="Lines too short",
        description="Lines dropped because they had too few tokens.",
        format="integer",
        kinds=DISTILL,
    ),
    Figure(
        name="lines_too_unknown",
        label="Lines with too many unknown tokens",
        description="Lines dropped because too many of their tokens were unknown.",
        format="integer",
        kinds=DISTILL,
    ),
    Figure(
        name="fresh_tensors",
        label="Randomly initialised",
        description="Tensors missing from the checkpoint, initialised randomly.",
        format="plain",
        kinds=TEACHER,
    ),
    Figure(
        name="tokenizer_notes",
        label="Tokenizer",
        description="Changes that the tokenizer makes to text, such as lower-casing.",
        format="plain",
    ),
)
"""In the order of display."""

CURVES: tuple[Figure, ...] = (
    Figure(
        name="loss",
        label="Train loss",
        description="Loss on the training text, averaged since the last point: the MLM loss of a "
        "teacher, the weighted distillation loss of a student.",
        better="lower",
    ),
    Figure(
        name="eval/loss",
        label="Eval loss",
        description="MLM loss on held-out text.",
        unit="nats",
        better="lower",
    ),
    Figure(
        name="eval/perplexity",
        label="Perplexity",
        description="exp(eval loss).",
        digits=2,
        better="lower",
    ),
    *(
        Figure(
            name=f"loss/{term}",
            label=label[0].upper() + label[1:],
            description=f"Unweighted {label}, averaged since the last point.",
            better="lower",
            kinds=("teacher", "distill") if term == "mlm" else DISTILL,
        )
        for term, label in LOSS_TERMS.items()
    ),
    Figure(name="lr", label="Learning rate", description="Learning rate of the step."),
    Figure(
        name="tokens_per_s",
        label="Throughput",
        description="Tokens per second since the last point.",
        unit="tokens/s",
        format="short",
        better="higher",
    ),
    Figure(
        name="grad_norm",
        label="Gradient norm",
        description="Norm of the gradient before clipping, averaged since the last point.",
    ),
    Figure(
        name="layers_active",
        label="Active layers",
        description="Encoder layers that LayerDrop kept in the step.",
        unit="layers",
        format="integer",
        kinds=TEACHER,
    ),
    Figure(
        name="unigram_entropy",
        label="Unigram entropy",
        description="Entropy of the held-out tokens: the eval loss of a model that knows only "
        "word frequencies.",
        unit="nats",
    ),
)

KEY_RESULTS = ("eval_loss", "layers")
"""What a list of runs shows of a result: the first of these that it has."""

_RESULTS, _CURVES = ({each.name: each for each in table} for table in (RESULTS, CURVES))


def result_figure(name: str) -> Figure:
    """The figure of a key of a result; one without a description for an unknown key."""
    return _RESULTS.get(name) or Figure(name=name, label=name)


def curve_label(name: str) -> str:
    """The label of a metric series; its name if it is unknown."""
    return _CURVES[name].label if name in _CURVES else name


def result_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each figure of a result: known ones in order, then all others.

    Nested objects, such as the report on pruned tensors, are not figures.
    """
    names = [name for name in _RESULTS if name in result]
    names += [name for name in result if name not in _RESULTS]
    figures = [result_figure(name) for name in names if not isinstance(result[name], dict)]
    return [(each.label, each.text(result[each.name])) for each in figures]
