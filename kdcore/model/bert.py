"""Loads, builds and reads BERT-like masked language models; trains nothing.

A model here is `BertForMaskedLM` or `DistilBertForMaskedLM`. The trainer needs its parts (hidden
states first, the head later and only where it is needed), so this module is the one place that
knows where each family keeps them.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PretrainedConfig,
)
from transformers.activations import ACT2FN

from kdcore.config import FolderCheckpoint, HubCheckpoint, RunCheckpoint, ScratchModel
from kdcore.errors import DataError
from kdcore.shapes import DISTILBERT_EPS, ModelShape

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
_ONLY: dict[str, object] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""Fields of a config.json that change what the model computes, with the only supported value."""
_HEADS = ("cls.predictions.", "vocab_")
"""Prefixes of the MLM head's tensors, in BERT and DistilBERT."""
_UNUSED = re.compile(r"(^|\.)(pooler|cls\.seq_relationship)\.")
"""Tensors of a pretrained BERT that masked language modelling does not use."""
_WRAPPED = re.compile(r"(module|_orig_mod)\.")
"""Prefixes that DataParallel and torch.compile put in front of every name."""
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
    """The MLM head up to `lm_head`: (..., hidden) to (..., hidden)."""
    if isinstance(model, BertForMaskedLM):
        return cast(Tensor, model.cls.predictions.transform(hidden))
    return cast(Tensor, model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


def lm_head(model: MaskedLM) -> nn.Linear:
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
        lm_head(model).bias.copy_(torch.from_numpy(np.log(share)))


def build_student(
    shape: ModelShape, teacher: MaskedLM, generator_seed: int
) -> BertForMaskedLM | DistilBertForMaskedLM:
    """A student of `shape` with random weights; what `shape` leaves open is as in the teacher."""
    torch.manual_seed(generator_seed)
    of = teacher.config
    bert = isinstance(teacher, BertForMaskedLM)
    dropout = of.hidden_dropout_prob if bert else of.dropout
    attention_dropout = of.attention_probs_dropout_prob if bert else of.attention_dropout
    activation = of.hidden_act if bert else of.activation
    shared = {
        "vocab_size": of.vocab_size,
        "max_position_embeddings": shape.max_positions,
        "initializer_range": of.initializer_range,
        "pad_token_id": of.pad_token_id,
        "tie_word_embeddings": of.tie_word_embeddings,
    }
    if shape.family == "bert":
        return BertForMaskedLM(
            BertConfig(
                hidden_size=shape.hidden_size,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=shape.intermediate_size,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=attention_dropout,
                hidden_act=activation,
                type_vocab_size=of.type_vocab_size if bert else 2,
                layer_norm_eps=shape.layer_norm_eps,
                **shared,
            )
        )
    return DistilBertForMaskedLM(
        DistilBertConfig(
            dim=shape.hidden_size,
            n_layers=shape.layers,
            n_heads=shape.heads,
            hidden_dim=shape.intermediate_size,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation=activation,
            sinusoidal_pos_embds=False if bert else of.sinusoidal_pos_embds,
            **shared,
        )
    )


def shape_of(model: MaskedLM, tokenizer_fingerprint: str | None = None) -> ModelShape:
    """The shape of a loaded model."""
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
        layer_norm_eps=config.layer_norm_eps if bert else DISTILBERT_EPS,
    )


def parameter_count(model: MaskedLM) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def checkpoint_folder(
    checkpoint: FolderCheckpoint | HubCheckpoint | RunCheckpoint, local: Path | None = None
) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded into the hub's own cache.

    `local` is the folder of a run's checkpoint, which a worker has brought.

    Only safetensors, JSON and vocabulary files are ever fetched. Raises DataError, or
    HubUnavailable within seconds where the hub cannot be reached.
    """
    if isinstance(checkpoint, FolderCheckpoint):
        local = Path(checkpoint.path)
    elif isinstance(checkpoint, RunCheckpoint) and local is None:
        raise DataError(
            f"run {checkpoint.run_id} exists on a Halflayer server only; "
            "on the command line give its downloaded folder instead"
        )
    if local is not None:
        if not (local / "config.json").is_file():
            raise DataError(f"{local} contains no config.json: it is not a model folder")
        return local
    assert isinstance(checkpoint, HubCheckpoint)
    # Imported here: it takes a second, and most runs do not use the hub.
    from kdcore.data.hub import hub_files  # noqa: PLC0415

    remedy = (
        "Train a teacher from scratch, start from an earlier run, or give a local folder on the "
        "command line."
    )
    return hub_files(checkpoint.name, checkpoint.revision, _MODEL_FILES, remedy)


@dataclass(frozen=True)
class Loaded:
    """A model from a checkpoint, and the tensors that did not match."""

    model: MaskedLM
    fresh: list[str]
    """Tensors of the model that the checkpoint lacks: they are randomly initialised."""
    unused: list[str]
    """Tensors of the checkpoint that a masked language model does not use."""


def load_model(folder: Path, head_seed: int | None = None) -> Loaded:
    """The masked language model of a HuggingFace-format folder; only safetensors are read.

    With a `head_seed`, a checkpoint that is an encoder without an MLM head gets a random one, a
    function of that seed. Raises DataError, naming fields and tensors, if the folder is not a BERT
    or DistilBERT, if its weights cannot be read, do not fit its config, or are not finite.
    """
    family, config = _family_and_config(folder)
    _require_safetensors(folder)
    if head_seed is not None:
        torch.manual_seed(head_seed)
    try:
        model, info = family.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            # Their names and shapes are reported below.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        TypeError,
        KeyError,
        AssertionError,  # torch's answer to a pad_token_id beyond the vocabulary
        SafetensorError,
    ) as error:
        raise DataError(f"cannot read the weights in {folder}: {error}") from error
    missing = set(info["missing_keys"])
    unite_biases(model, missing)
    unused = {name for name in info["unexpected_keys"] if _UNUSED.search(name)}
    head = {name for name, _ in model.named_parameters() if name.startswith(_HEADS)}
    headless = head <= missing and all(name.startswith(_HEADS) for name in missing)
    unexpected = set(info["unexpected_keys"]) - unused
    if unexpected or info["mismatched_keys"] or (missing and not headless):
        raise DataError(_does_not_fit(folder, config, missing, unexpected, info["mismatched_keys"]))
    if headless and head_seed is None:
        remedy = "Use a checkpoint that has its head"
        if family is BertForMaskedLM:
            remedy = (
                "Train a head first: start a teacher run from this checkpoint, then use the result "
                "of that run here"
            )
        raise DataError(
            f"{folder} contains an encoder without its masked-language-model head: {_some(head)} "
            f"missing, so its predictions would be random. {remedy}"
        )
    if integers := _integers(folder):
        raise DataError(
            f"the weights in {folder} are integers in {_some(integers)}: a quantised checkpoint "
            "cannot be used, save the model in float32, float16 or bfloat16"
        )
    broken = [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]
    if broken:
        raise DataError(
            f"the weights in {folder} contain NaN or infinite values in {_some(broken)}: the "
            "checkpoint is damaged, or the training that made it had diverged"
        )
    _require_ties(folder, model)
    fresh = [name for name, _ in model.named_parameters() if name in missing]
    return Loaded(cast(MaskedLM, model), fresh, sorted(unused))


def unite_biases(model: MaskedLM, missing: set[str] | None = None) -> None:
    """Give both names of an untied BERT's output bias the value of the one that is used.

    transformers 5 uses `decoder.bias` and ignores `predictions.bias`; in 4.57 they are one tensor,
    which it saves as the latter. Of names in `missing`, the one that is so filled is taken out.
    """
    missing = set() if missing is None else missing
    if not isinstance(model, BertForMaskedLM) or model.config.tie_word_embeddings:
        return
    used, other = "cls.predictions.decoder.bias", "cls.predictions.bias"
    source, target = (other, used) if used in missing else (used, other)
    if source not in missing:
        missing.discard(target)
    with torch.no_grad():
        model.get_parameter(target).copy_(model.get_parameter(source))


def _does_not_fit(
    folder: Path,
    config: PretrainedConfig,
    missing: set[str],
    unexpected: set[str],
    mismatched: Collection[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> str:
    """The error message for weights that are not those of the model in config.json."""
    parts = []
    if missing:
        parts.append(f"missing from the weights: {_some(missing)}")
    if unexpected:
        parts.append(f"not part of the model: {_some(unexpected)}")
    if mismatched:
        shapes = [
            f"{name} is {list(found)} in the weights and {list(wanted)} by config.json"
            for name, found, wanted in sorted(mismatched)
        ]
        parts.append(f"of another shape: {_some(shapes)}")
    if any(".layer." in name for name in missing | unexpected):
        parts.append(f"config.json says num_hidden_layers: {config.num_hidden_layers}")
    if unexpected and all(_WRAPPED.match(name) for name in unexpected):
        parts.append(
            "the names begin as torch.nn.DataParallel or torch.compile writes them: save the "
            "wrapped model itself, for instance model.module.save_pretrained(...)"
        )
    return f"the weights in {folder} do not fit its config.json; " + "; ".join(parts)


def _some(names: Collection[str]) -> str:
    """The number of names and the first three."""
    first = ", ".join(sorted(names)[:3])
    return (
        f"{len(names)} tensor{'s'[: len(names) != 1]} ({first}{', ...' if len(names) > 3 else ''})"
    )


def _require_ties(folder: Path, model: MaskedLM) -> None:
    """Raises DataError if tensors that the config ties differ: versions of transformers disagree
    about which of them counts."""
    if not model.config.tie_word_embeddings:
        return
    for target, source in cast(dict[str, str], model._tied_weights_keys).items():
        if model.get_parameter(target) is not model.get_parameter(source):
            raise DataError(
                f"config.json in {folder} says tie_word_embeddings: true, but {target} and "
                f"{source} differ in the weights: set it to false there to use both"
            )


def _family_and_config(folder: Path) -> tuple[type[MaskedLM], PretrainedConfig]:
    """The model's class, and the part of its config that describes its shape.

    A config may also name code, kernels, quantisers and files, which transformers would load.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_bytes())  # with or without a byte order mark
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} contains no readable model config: {error}") from error
    model_type = _model_type(path, raw)
    if model_type not in _FAMILIES:
        raise DataError(f"{folder} contains a {model_type}; only BERT and DistilBERT can be used")
    for name, known in _ONLY.items():
        if raw.get(name) not in (known, None):
            raise DataError(
                f"{path}: {name} is {raw[name]!r}; only {known!r} is supported; "
                "ignoring it would change what the model computes"
            )
    family, fields = _FAMILIES[model_type]
    try:
        config = family.config_class(**{key: raw[key] for key in fields if key in raw})
    except Exception as error:  # whatever its checks raise: they differ between versions
        raise DataError(f"{folder} contains no readable model config: {error}") from error
    name = "hidden_act" if model_type == "bert" else "activation"
    if getattr(config, name) not in ACT2FN:
        raise DataError(f"{path}: {name} {getattr(config, name)!r} is not an activation function")
    return family, config


def _model_type(path: Path, raw: Any) -> str:
    """`model_type` of a config, or what its `architectures` say; raises DataError."""
    if not isinstance(raw, dict):
        raise DataError(f"{path.parent} contains no readable model config: it is not a JSON object")
    if raw.get("model_type") is not None:
        return str(raw["model_type"])
    named = raw.get("architectures")
    found = [
        re.match(r"(Bert|DistilBert)(Model|For[A-Z])", str(each))
        for each in (named if isinstance(named, list) else [])
    ]
    families = {match and match[1].lower() for match in found}
    if len(families) != 1 or None in families:
        raise DataError(
            f"{path} does not say what the model is: it lacks model_type, and architectures is "
            f'{named!r}. Add "model_type": "bert" or "model_type": "distilbert"'
        )
    return str(families.pop())


def _require_safetensors(folder: Path) -> None:
    """Raises DataError if something beside the weights would have transformers load others.

    `use_safetensors` alone does not keep it from unpickling what an index names, nor from
    fetching the base model of an adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise DataError(f"{folder} contains an adapter; merge it into its model first")
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index} is not an index of weights: {error}") from error
    for name in named:
        if not str(name).endswith(".safetensors") or Path(str(name)).name != name:
            raise DataError(
                f"{index} names '{name}'; only .safetensors files in the folder itself are read"
            )


def _integers(folder: Path) -> list[str]:
    """Tensors of the weights that hold integers, which would be loaded without their scales."""
    found = []
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        found += [name for name, kind in kinds.items() if kind[0] in "IU"]
    # What older releases of transformers saved besides the weights.
    return [name for name in found if not name.endswith("position_ids")]


def read_notes(folder: Path) -> dict[str, object]:
    """The notes that Halflayer saved beside a checkpoint; empty for other checkpoints."""
    path = folder / NOTES_FILE
    if not path.is_file():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    return notes if isinstance(notes, dict) else {}
