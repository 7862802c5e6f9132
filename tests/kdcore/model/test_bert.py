"""Checkpoints from elsewhere: their shape and their safetensors are read, and nothing else; what
does not fit is refused by name."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertForMaskedLM, BertForPreTraining, BertModel, DistilBertModel

from kdcore.config import PruneOptions, ScratchModel
from kdcore.errors import DataError
from kdcore.model.bert import build_teacher, load_model
from kdcore.model.prune import prune

Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT, saved as transformers saves it."""
    scratch = ScratchModel(
        layers=2, hidden_size=8, heads=1, intermediate_size=8, max_positions=8, dropout=0.25
    )
    model = build_teacher(scratch, vocab_size=7, pad_id=3, generator_seed=1)
    for parameter in model.parameters():  # biases and layer norms start constant: tell them apart
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    """Set fields of config.json; those that become `...` are left out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def change_weights(folder: Path, change: Callable[[Tensors], Tensors]) -> Tensors:
    path = folder / "model.safetensors"
    changed = change({name: tensor.clone() for name, tensor in load_file(path).items()})
    save_file(changed, path, metadata={"format": "pt"})
    return changed


def renamed(*pairs: tuple[str, str]) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        for old, new in pairs:
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        return tensors

    return change


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[1, 2, 4, 5, 6]])).logits  # type: ignore[no-any-return]


def test_a_config_gives_the_shape_and_nothing_else(folder: Path) -> None:
    plain = load_model(folder).model
    change_config(
        folder,
        auto_map={"AutoModelForMaskedLM": "evil.Model"},
        _attn_implementation="team/kernel",
        quantization_config={"quant_method": "gptq"},
        transformers_weights="pytorch_model.bin",
        _name_or_path="https://127.0.0.1/model",
    )
    loaded = load_model(folder).model
    assert loaded.config.hidden_dropout_prob == 0.25
    assert loaded.config.pad_token_id == 3
    assert not hasattr(loaded.config, "auto_map")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


@pytest.mark.parametrize("model_type", ["gpt2", "evil", ["bert"]])
def test_other_families_are_refused(folder: Path, model_type: Any) -> None:
    change_config(folder, model_type=model_type)
    with pytest.raises(DataError, match="only BERT and DistilBERT"):
        load_model(folder)


@pytest.mark.parametrize("config", ["", "[]", '{"model_type": "bert", "hidden_size": "x"}'])
def test_unreadable_configs_are_refused(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(DataError, match="no readable model config"):
        load_model(folder)


@pytest.mark.parametrize("name", ["evil.bin", "../model.safetensors", "/tmp/x.safetensors", 7])
def test_an_index_may_name_safetensors_of_the_folder_only(folder: Path, name: object) -> None:
    index = {"metadata": {}, "weight_map": {"cls.predictions.bias": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"only \.safetensors files"):
        load_model(folder)


def test_adapters_are_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="adapter"):
        load_model(folder)


# ------------------------------------------------------------------- weights that do not fit


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        pytest.param(
            renamed(("bert.", "module.bert."), ("cls.", "module.cls.")),
            {},
            [r"missing from the weights: \d+ tensors", r"module\.bert\.", "DataParallel"],
            id="names from DataParallel",
        ),
        pytest.param(
            renamed(("bert.", "_orig_mod.bert."), ("cls.", "_orig_mod.cls.")),
            {},
            [r"_orig_mod\.bert\.", r"torch\.compile"],
            id="names from torch.compile",
        ),
        pytest.param(
            dict,
            {"num_hidden_layers": 3},
            [
                "missing from the weights: 16 tensors",
                r"encoder\.layer\.2\.",
                "num_hidden_layers: 3",
            ],
            id="more layers than weights",
        ),
        pytest.param(
            dict,
            {"num_hidden_layers": 1},
            ["not part of the model: 16 tensors", r"encoder\.layer\.1\.", "num_hidden_layers: 1"],
            id="fewer layers than weights",
        ),
        pytest.param(
            dict,
            {"vocab_size": 9},
            [r"word_embeddings\.weight is \[7, 8\] in the weights and \[9, 8\] by config"],
            id="another vocabulary",
        ),
        pytest.param(
            dict,
            {"hidden_size": 16},
            [r"\(bert.*\.bias is \[8\] in the weights and \[16\] by config"],
            id="another width",
        ),
        pytest.param(
            lambda all: {name: t for name, t in all.items() if "1.output.dense.bias" not in name},
            {},
            [r"missing from the weights: 1 tensor \(bert\.encoder\.layer\.1\.output\.dense"],
            id="one tensor missing",
        ),
        pytest.param(
            lambda all: {name: t for name, t in all.items() if "transform" not in name},
            {},
            [r"missing .* 4 tensors \(cls\.predictions\.transform\.LayerNorm\.bias"],
            id="half a head",
        ),
        pytest.param(
            lambda all: all | {"bert.encoder.layer.0.attention.self.distance": torch.ones(2)},
            {},
            [r"not part of the model: 1 tensor .*self\.distance"],
            id="one tensor more",
        ),
    ],
)
@pytest.mark.parametrize("head_seed", [None, 1])
def test_weights_that_do_not_fit_are_refused_by_name(
    folder: Path,
    change: Callable[[Tensors], Tensors],
    config: dict[str, Any],
    words: list[str],
    head_seed: int | None,
) -> None:
    change_weights(folder, change)
    change_config(folder, **config)
    for each in words:
        with pytest.raises(DataError, match=each) as caught:
            load_model(folder, head_seed)
    assert str(folder) in str(caught.value)


def test_quantised_weights_are_refused_by_name(folder: Path) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    change_weights(folder, lambda all: all | {name: (all[name] * 100).to(torch.int8)})
    with pytest.raises(DataError, match=rf"integers in 1 tensor \({re.escape(name)}\)"):
        load_model(folder)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_load(folder: Path, kind: torch.dtype) -> None:
    change_weights(folder, lambda all: {key: each.to(kind) for key, each in all.items()})
    assert {each.dtype for each in load_model(folder).model.parameters()} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    def change(tensors: Tensors) -> Tensors:
        tensors["bert.encoder.layer.1.attention.self.query.weight"][0, 0] = value
        return tensors

    change_weights(folder, change)
    with pytest.raises(DataError, match=r"1 tensor \(bert\.encoder\.layer\.1\.\S+query\.weight\)"):
        load_model(folder)


def test_what_a_pretrained_bert_has_besides_is_not_used(folder: Path) -> None:
    plain = load_model(folder).model
    pretraining = BertForPreTraining(plain.config)
    pretraining.load_state_dict(plain.state_dict(), strict=False)
    pretraining.save_pretrained(folder)
    # As in the checkpoints of 2018, bert-base-uncased among them.
    change_weights(
        folder,
        renamed(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
    )
    change_weights(
        folder, lambda all: all | {"bert.embeddings.position_ids": torch.arange(8)[None]}
    )
    loaded = load_model(folder)
    assert loaded.fresh == []
    assert loaded.unused == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "cls.seq_relationship.bias",
        "cls.seq_relationship.weight",
    ]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name


def test_a_padding_token_beyond_the_vocabulary(folder: Path) -> None:
    change_config(folder, pad_token_id=7)
    with pytest.raises(DataError, match=r"cannot read the weights.*adding_idx"):
        load_model(folder)


def test_shards_are_put_together(folder: Path) -> None:
    plain = load_model(folder).model
    plain.save_pretrained(folder, max_shard_size="1KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert (folder / "model.safetensors.index.json").is_file()
    assert torch.equal(logits(load_model(folder).model), logits(plain))


# -------------------------------------------------------------------- encoders without a head


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_gets_a_seeded_head_where_one_is_trained(
    folder: Path, prefix: bool, tied: bool
) -> None:
    change_config(folder, tie_word_embeddings=tied)
    if prefix:
        names = ("bert.",)
        change_weights(folder, lambda all: {n: t for n, t in all.items() if n.startswith(names)})
    else:
        BertModel.from_pretrained(folder).save_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    with pytest.raises(DataError, match=r"without its masked.*cls\.predictions.*teacher run"):
        load_model(folder)
    loaded = load_model(folder, head_seed=5)
    tensors = loaded.model.state_dict()
    for name, tensor in saved.items():
        if "pooler" not in name:
            assert torch.equal(tensors[name if prefix else f"bert.{name}"], tensor), name
    untied = [] if tied else ["cls.predictions.decoder.bias", "cls.predictions.decoder.weight"]
    assert sorted(loaded.fresh) == sorted(
        [
            "cls.predictions.bias",
            *untied,
            "cls.predictions.transform.LayerNorm.bias",
            "cls.predictions.transform.LayerNorm.weight",
            "cls.predictions.transform.dense.bias",
            "cls.predictions.transform.dense.weight",
        ]
    )
    again, other = (load_model(folder, head_seed=seed).model.state_dict() for seed in (5, 6))
    for name, tensor in tensors.items():
        assert torch.equal(tensor, again[name]), name
    dense = "cls.predictions.transform.dense.weight"
    assert not torch.equal(tensors[dense], other[dense])


def test_a_distilbert_without_a_head_is_refused(folder: Path) -> None:
    student, _ = prune(load_model(folder).model, PruneOptions())
    student.save_pretrained(folder)
    DistilBertModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(DataError, match=r"model head: 5 tensors.*Use a checkpoint that has"):
        load_model(folder)


# ------------------------------------------------------------------- what the config decides


@pytest.mark.parametrize(
    "architectures", [["BertForMaskedLM"], ["BertModel"], ["BertForPreTraining", "BertForMaskedLM"]]
)
def test_architectures_say_what_model_type_does_not(folder: Path, architectures: Any) -> None:
    plain = load_model(folder).model
    change_config(folder, model_type=..., architectures=architectures)
    assert torch.equal(logits(load_model(folder).model), logits(plain))


def test_architectures_of_a_distilbert(folder: Path) -> None:
    student, _ = prune(load_model(folder).model, PruneOptions())
    student.save_pretrained(folder)
    change_config(folder, model_type=...)
    assert torch.equal(logits(load_model(folder).model), logits(student))


@pytest.mark.parametrize(
    "architectures",
    [..., None, [], "BertModel", ["RobertaForMaskedLM"], ["BertModel", "DistilBertModel"], [7]],
)
def test_a_config_that_does_not_say_its_family(folder: Path, architectures: Any) -> None:
    change_config(folder, model_type=..., architectures=architectures)
    with pytest.raises(
        DataError, match=r"config\.json .* lacks model_type.*\"model_type\": \"bert\""
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("hidden_act", "swoosh"),
    ],
)
def test_fields_that_would_change_the_function_are_refused(
    folder: Path, field: str, value: Any
) -> None:
    change_config(folder, **{field: value})
    with pytest.raises(DataError, match=rf"config\.json: {field}.*{value}"):
        load_model(folder)


def test_an_untied_bert_has_one_output_bias_under_two_names(folder: Path) -> None:
    """transformers 4.57 saves it under the name that transformers 5 ignores."""
    used, other = "cls.predictions.decoder.bias", "cls.predictions.bias"
    change_config(folder, tie_word_embeddings=False)
    decoder = {"cls.predictions.decoder.weight": torch.randn(7, 8)}
    saved = change_weights(folder, lambda all: all | decoder)
    assert used not in saved
    old = load_model(folder)
    assert old.fresh == []
    for name in (used, other):
        assert torch.equal(old.model.state_dict()[name], saved[other])
    saved = change_weights(folder, lambda all: all | {used: torch.randn(7)})
    new = load_model(folder).model
    assert torch.equal(logits(new), logits(BertForMaskedLM.from_pretrained(folder)))
    for name in (used, other):
        assert torch.equal(new.state_dict()[name], saved[used])


@pytest.mark.parametrize("name", ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"])
def test_tensors_that_the_config_ties_must_not_differ(folder: Path, name: str) -> None:
    shape = (7, 8)[: 2 - name.endswith("bias")]
    change_weights(folder, lambda all: all | {name: torch.randn(shape)})
    with pytest.raises(DataError, match=f"tie_word_embeddings: true.*{name}"):
        load_model(folder)
