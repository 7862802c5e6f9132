"""Loads, builds and reads BERT-like masked language models; trains nothing.

A model here is `BertForMaskedLM` or `DistilBertForMaskedLM`. The trainer needs its parts (hidden
states first, the head later and only where it is needed), so this module is the one place that
knows where each family keeps them.
"""

import json
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PretrainedConfig,
)

from kdcore.config import FolderCheckpoint, HubCheckpoint, RunCheckpoint, ScratchModel
from kdcore.errors import DataError
from kdcore.shapes import ModelShape

MaskedLM: TypeAlias = BertForMaskedLM | DistilBertForMaskedLM
_MODEL_FILES = ["*.json", "model*.safetensors", "vocab.txt"]
_FAMILIES: dict[str, tuple[type[MaskedLM], tuple[str, ...]]] = {
    "bert": (
        BertForMaskedLM,
        (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "hidden_act",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "max_position_embeddings",
            "type_vocab_size",
            "initializer_range",
            "layer_norm_eps",
            "pad_token_id",
            "tie_word_embeddings",
        ),
    ),
    "distilbert": (
        DistilBertForMaskedLM,
        (
            "vocab_size",
            "max_position_embeddings",
            "sinusoidal_pos_embds",
            "n_layers",
            "n_heads",
            "dim",
            "hidden_dim",
            "dropout",
            "attention_dropout",
            "activation",
            "initializer_range",
            "pad_token_id",
            "tie_word_embeddings",
        ),
    ),
}
"""By `model_type`: the class, and the fields of a config.json that are taken over."""
NOTES_FILE = "halflayer.json"
"""What Halflayer knows of a checkpoint beyond its weights: how it was made, its tokenizer."""


def backbone(model: MaskedLM) -> nn.Module:
    """The model without its head."""
    return cast(nn.Module, model.bert if isinstance(model, BertForMaskedLM) else model.distilbert)


def encoder(model: MaskedLM) -> nn.Module:
    """The module whose `layer` is the list of encoder layers."""
    if isinstance(model, BertForMaskedLM):
        return cast(nn.Module, model.bert.encoder)
    return cast(nn.Module, model.distilbert.transformer)


def position_embeddings(model: MaskedLM) -> nn.Embedding:
    return cast(nn.Embedding, backbone(model).embeddings.position_embeddings)  # type: ignore[union-attr]


def head_transform(model: MaskedLM, hidden: Tensor) -> Tensor:
    """The MLM head up to its projector: (..., hidden) to (..., hidden)."""
    if isinstance(model, BertForMaskedLM):
        return cast(Tensor, model.cls.predictions.transform(hidden))
    return cast(Tensor, model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


def projector(model: MaskedLM) -> nn.Linear:
    """The MLM head's last layer, hidden to vocabulary; its weight is tied to the embeddings."""
    return cast(nn.Linear, model.get_output_embeddings())


def build_teacher(
    model: ScratchModel, vocab_size: int, pad_id: int, generator_seed: int
) -> BertForMaskedLM:
    """A BERT with random weights, a function of its shape and `generator_seed`."""
    torch.manual_seed(generator_seed)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=model.hidden_size,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            intermediate_size=model.intermediate_size,
            max_position_embeddings=model.max_positions,
            hidden_dropout_prob=model.dropout,
            attention_probs_dropout_prob=model.dropout,
            pad_token_id=pad_id,
        )
    )


def start_at_unigram(model: MaskedLM, counts: npt.NDArray[np.int64]) -> None:
    """Set the output bias to the log frequencies of the tokens, (vocab,) counts.

    The softmax of the bias alone is then the unigram distribution; 1 is added to every count, so
    that tokens that never occur stay finite.
    """
    share = (counts + 1.0) / (counts + 1.0).sum()
    with torch.no_grad():
        projector(model).bias.copy_(torch.from_numpy(np.log(share)))


def build_student(
    shape: ModelShape, teacher: MaskedLM, generator_seed: int
) -> BertForMaskedLM | DistilBertForMaskedLM:
    """A student of `shape` with random weights and the teacher's dropout and activation."""
    torch.manual_seed(generator_seed)
    of = teacher.config
    bert = isinstance(teacher, BertForMaskedLM)
    dropout = of.hidden_dropout_prob if bert else of.dropout
    attention_dropout = of.attention_probs_dropout_prob if bert else of.attention_dropout
    activation = of.hidden_act if bert else of.activation
    vocab_size = teacher.config.vocab_size
    if shape.family == "bert":
        return BertForMaskedLM(
            BertConfig(
                vocab_size=vocab_size,
                hidden_size=shape.hidden_size,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=shape.intermediate_size,
                max_position_embeddings=shape.max_positions,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=attention_dropout,
                hidden_act=activation,
                type_vocab_size=of.type_vocab_size if bert else 2,
                layer_norm_eps=of.layer_norm_eps if bert else 1e-12,
                pad_token_id=of.pad_token_id,
            )
        )
    return DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=vocab_size,
            dim=shape.hidden_size,
            n_layers=shape.layers,
            n_heads=shape.heads,
            hidden_dim=shape.intermediate_size,
            max_position_embeddings=shape.max_positions,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation=activation,
            pad_token_id=of.pad_token_id,
        )
    )


def shape_of(model: MaskedLM, tokenizer_fingerprint: str | None = None) -> ModelShape:
    """The shape of a model at hand."""
    config = model.config
    bert = isinstance(model, BertForMaskedLM)
    return ModelShape(
        family="bert" if bert else "distilbert",
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size if bert else config.hidden_dim,
        max_positions=config.max_position_embeddings,
        vocab_size=config.vocab_size,
        tokenizer=tokenizer_fingerprint,
    )


def parameter_count(model: MaskedLM) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def checkpoint_folder(checkpoint: FolderCheckpoint | HubCheckpoint | RunCheckpoint) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded into the hub's own cache.

    Only safetensors, JSON and vocabulary files are ever fetched. Raises DataError, or
    HubUnavailable within seconds where the hub cannot be reached.
    """
    if isinstance(checkpoint, RunCheckpoint):
        raise DataError(
            f"run {checkpoint.run_id} is known to a Halflayer server only; "
            "on the command line give its downloaded folder instead"
        )
    if isinstance(checkpoint, FolderCheckpoint):
        folder = Path(checkpoint.path)
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder} holds no config.json: it is not a model folder")
        return folder
    # Costs a second, which runs that never ask the hub should not pay.
    from kdcore.hub import hub_files  # noqa: PLC0415

    remedy = (
        "Train a teacher from scratch, start from an earlier run, or give a local folder on the "
        "command line."
    )
    return hub_files(checkpoint.name, checkpoint.revision, _MODEL_FILES, remedy)


def load_model(folder: Path) -> MaskedLM:
    """The masked language model of a HuggingFace-format folder; only safetensors are read.

    Raises DataError if the folder is no BERT or DistilBERT, or if its weights cannot be read.
    """
    family, config = _family_and_config(folder)
    _require_safetensors(folder)
    try:
        model = family.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise DataError(f"cannot read the weights in {folder}: {error}") from error
    return cast(MaskedLM, model)


def _family_and_config(folder: Path) -> tuple[type[MaskedLM], PretrainedConfig]:
    """The model's class, and as much of its config as describes its shape.

    A config may also name code, kernels, quantisers and files, which transformers would load.
    """
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model_type = str(raw["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no readable model config: {error}") from error
    if model_type not in _FAMILIES:
        raise DataError(f"{folder} holds a {model_type}; only BERT and DistilBERT can be used")
    family, fields = _FAMILIES[model_type]
    try:
        config = family.config_class(**{key: raw[key] for key in fields if key in raw})
    except Exception as error:  # whatever its checks raise: they differ between versions
        raise DataError(f"{folder} holds no readable model config: {error}") from error
    return family, config


def _require_safetensors(folder: Path) -> None:
    """Raises DataError if something beside the weights would have transformers load others.

    `use_safetensors` alone does not keep it from unpickling what an index names, nor from
    fetching the base model of an adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise DataError(f"{folder} holds an adapter; merge it into its model first")
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index} is no index of weights: {error}") from error
    for name in named:
        if not str(name).endswith(".safetensors") or Path(str(name)).name != name:
            raise DataError(
                f"{index} names '{name}'; only .safetensors files in the folder itself are read"
            )


def read_notes(folder: Path) -> dict[str, object]:
    """What Halflayer noted beside a checkpoint; empty for checkpoints of other origin."""
    path = folder / NOTES_FILE
    if not path.is_file():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    return notes if isinstance(notes, dict) else {}
