"""Cuts a student out of a teacher: some layers, the embeddings and the MLM head; trains nothing."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import BertForMaskedLM

from kdcore.config import PruneOptions
from kdcore.model.bert import MaskedLM, build_student, shape_of
from kdcore.shapes import layers_to_keep, pruned_shape

# DistilBERT's names of the parts of one layer, with BERT's names.
_LAYER_PARTS = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
_HEAD_TRANSFORM = {
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
}
_POSITIONS = "distilbert.embeddings.position_embeddings.weight"


@dataclass
class PruneReport:
    """Which teacher tensor each student tensor was copied from, and which were dropped."""

    kept_layers: list[int]
    copied: dict[str, str] = field(default_factory=dict)
    """Student tensor to teacher tensor."""
    fresh: list[str] = field(default_factory=list)
    """Student tensors that are randomly initialised."""
    dropped: list[str] = field(default_factory=list)
    """Teacher tensors that were copied to no student tensor."""

    def as_json(self) -> dict[str, object]:
        copied = [{"tensor": name, "from": source} for name, source in self.copied.items()]
        return {"copied": copied, "fresh": self.fresh, "dropped": self.dropped}


def prune(teacher: MaskedLM, options: PruneOptions) -> tuple[MaskedLM, PruneReport]:
    """A student with the chosen layers of `teacher`, and the report of every tensor.

    Raises ConfigError if the teacher lacks the layers or cannot become the family.
    """
    kept = layers_to_keep(options.layers, teacher.config.num_hidden_layers)
    shape = pruned_shape(options, shape_of(teacher))
    student = build_student(shape, teacher, generator_seed=options.seed)
    sources = _sources(teacher, student, kept, options.copy_head_transform)
    report = PruneReport(kept_layers=kept)
    theirs, ours = teacher.state_dict(), student.state_dict()
    used: set[int] = set()
    with torch.no_grad():
        for name, tensor in ours.items():
            names = sources.get(name)
            if names is None:
                report.fresh.append(name)
                continue
            tensor.copy_(_value(theirs, names))
            used.update(theirs[source.removesuffix("[0]")].data_ptr() for source in names)
            report.copied[name] = " + ".join(names)
    # By address: a tied tensor has two names, and is copied if either is.
    report.dropped = [name for name, tensor in theirs.items() if tensor.data_ptr() not in used]
    return student, report


def _value(tensors: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    parts = [
        tensors[name.removesuffix("[0]")][0] if name.endswith("[0]") else tensors[name]
        for name in names
    ]
    return sum(parts[1:], start=parts[0])


def _sources(
    teacher: MaskedLM, student: MaskedLM, kept: list[int], head_transform: bool
) -> dict[str, tuple[str, ...]]:
    """Student tensor name to the teacher tensors whose sum it starts from."""
    names: dict[str, tuple[str, ...]] = {}
    same_family = type(teacher) is type(student)
    from_bert = isinstance(teacher, BertForMaskedLM)
    theirs_prefix = "bert.encoder.layer" if from_bert else "distilbert.transformer.layer"
    to_bert = isinstance(student, BertForMaskedLM)
    ours_prefix = "bert.encoder.layer" if to_bert else "distilbert.transformer.layer"
    head_parts = tuple(_HEAD_TRANSFORM.values() if to_bert else _HEAD_TRANSFORM)
    for name in student.state_dict():
        if not head_transform and name.startswith(head_parts):
            continue
        if name.startswith(ours_prefix):
            index, _, part = name.removeprefix(ours_prefix + ".").partition(".")
            module, _, leaf = part.rpartition(".")
            source = module if same_family else _LAYER_PARTS[module]
            names[name] = (f"{theirs_prefix}.{kept[int(index)]}.{source}.{leaf}",)
        else:
            names[name] = (name,) if same_family else _from_bert(name)
    return names


def _from_bert(name: str) -> tuple[str, ...]:
    """BERT's tensors for a DistilBERT tensor outside the encoder layers."""
    if name == _POSITIONS:
        # DistilBERT has no token types. BERT adds the embedding of type 0 at every position, so it
        # belongs to the position embeddings; without it the student's input would be shifted.
        return (
            "bert.embeddings.position_embeddings.weight",
            "bert.embeddings.token_type_embeddings.weight[0]",
        )
    module, _, leaf = name.rpartition(".")
    if module in _HEAD_TRANSFORM:
        return (f"{_HEAD_TRANSFORM[module]}.{leaf}",)
    if module == "vocab_projector":
        return (f"cls.predictions.decoder.{leaf}",)
    return (name.replace("distilbert.", "bert.", 1),)
