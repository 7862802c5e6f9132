"""Checkpoints from elsewhere: their shape and their safetensors are read, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcore.config import ScratchModel
from kdcore.errors import DataError
from kdcore.models import build_teacher, load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT, saved as transformers saves it."""
    scratch = ScratchModel(
        layers=1, hidden_size=8, heads=1, intermediate_size=8, max_positions=8, dropout=0.25
    )
    build_teacher(scratch, vocab_size=7, pad_id=3, generator_seed=1).save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_config_gives_the_shape_and_nothing_else(folder: Path) -> None:
    plain = load_model(folder)
    change_config(
        folder,
        auto_map={"AutoModelForMaskedLM": "evil.Model"},
        _attn_implementation="team/kernel",
        quantization_config={"quant_method": "gptq"},
        transformers_weights="pytorch_model.bin",
        _name_or_path="https://127.0.0.1/model",
    )
    loaded = load_model(folder)
    assert loaded.config.hidden_dropout_prob == 0.25
    assert loaded.config.pad_token_id == 3
    assert not hasattr(loaded.config, "auto_map")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


@pytest.mark.parametrize("model_type", ["gpt2", "evil", None, ["bert"]])
def test_other_families_are_refused(folder: Path, model_type: Any) -> None:
    change_config(folder, model_type=model_type)
    with pytest.raises(DataError, match="only BERT and DistilBERT"):
        load_model(folder)


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"model_type": "bert", "hidden_size": "x"}'])
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
