"""Pruning, tensor by tensor."""

from pathlib import Path

import pytest
import torch
from transformers import BertForMaskedLM

from kdcore.config import (
    EveryOther,
    Explicit,
    FirstK,
    FreshStudent,
    LastK,
    PruneOptions,
    Spread,
)
from kdcore.errors import ConfigError
from kdcore.model.bert import MaskedLM, build_student, build_teacher, load_model, shape_of
from kdcore.model.prune import prune
from kdcore.shapes import fresh_student_shape, layers_to_keep
from tests.fixtures.configs import tiny_model

TINY = tiny_model(hidden_size=16, max_positions=16, dropout=0.0)


@pytest.fixture
def teacher() -> MaskedLM:
    model = build_teacher(TINY, vocab_size=61, pad_id=0, generator_seed=1)
    for parameter in model.parameters():  # biases and layer norms start constant: tell them apart
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def outputs(model: MaskedLM) -> torch.Tensor:
    ids = torch.arange(1, 25).reshape(2, 12)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize(
    ("choice", "teacher_layers", "kept"),
    [
        (EveryOther(), 4, [0, 2]),
        (EveryOther(), 12, [0, 2, 4, 6, 8, 10]),
        (EveryOther(), 5, [0, 2, 4]),
        (FirstK(k=3), 12, [0, 1, 2]),
        (LastK(k=3), 12, [9, 10, 11]),
        (Spread(k=6), 12, [0, 2, 4, 7, 9, 11]),
        (Spread(k=2), 4, [0, 3]),
        (Spread(k=1), 4, [0]),
        (Spread(k=4), 4, [0, 1, 2, 3]),
        (Explicit(layers=[1, 3]), 4, [1, 3]),
    ],
)
def test_layers_to_keep(choice, teacher_layers: int, kept: list[int]) -> None:  # type: ignore[no-untyped-def]
    assert layers_to_keep(choice, teacher_layers) == kept


@pytest.mark.parametrize("choice", [Explicit(layers=[0, 7]), FirstK(k=5), LastK(k=5), Spread(k=5)])
def test_layers_that_the_teacher_lacks(choice) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as caught:
        layers_to_keep(choice, 4)
    assert caught.value.field[0] == "layers"
    assert "4" in caught.value.message


# By field of the config: a value that is not the default one.
OTHER = {
    "tie_word_embeddings": False,
    "layer_norm_eps": 1e-2,
    "hidden_act": "relu",
    "type_vocab_size": 3,
    "pad_token_id": None,
    "initializer_range": 0.1,
}


def teacher_with(**fields: object) -> MaskedLM:
    """A BERT whose tensors are all different, the two biases of an untied head among them."""
    config = build_teacher(TINY, vocab_size=61, pad_id=0, generator_seed=1).config
    for name, value in fields.items():
        setattr(config, name, value)
    model = BertForMaskedLM(config)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def reloaded(model: MaskedLM, folder: Path) -> MaskedLM:
    model.save_pretrained(folder)
    return load_model(folder).model


@pytest.mark.parametrize("field", [None, *OTHER, "all"])
@pytest.mark.parametrize("route", ["bert", "distilbert", "distilbert again"])
def test_keeping_every_layer_keeps_the_function(
    tmp_path: Path, field: str | None, route: str
) -> None:
    fields = OTHER if field == "all" else {field: OTHER[field]} if field else {}
    if route != "bert":  # whose layer norms have one epsilon, see below
        fields = {name: value for name, value in fields.items() if name != "layer_norm_eps"}
    teacher = teacher_with(**fields)
    options = PruneOptions(layers=FirstK(k=4), student_family=route.removesuffix(" again"))
    student, report = prune(reloaded(teacher, tmp_path / "teacher"), options)
    assert report.fresh == []
    if route == "distilbert again":
        student, report = prune(reloaded(student, tmp_path / "middle"), options)
        assert report.fresh == report.dropped == []
    student = reloaded(student, tmp_path / "student")
    torch.testing.assert_close(outputs(student), outputs(teacher), rtol=0, atol=1e-5)
    for name, value in fields.items():
        ours = "activation" if name == "hidden_act" and route != "bert" else name
        if name != "type_vocab_size" or route == "bert":
            assert getattr(student.config, ours) == value


def test_sinusoidal_positions_stay(teacher: MaskedLM) -> None:
    middle, _ = prune(teacher, PruneOptions(layers=FirstK(k=4)))
    middle.config.sinusoidal_pos_embds = True
    student, _ = prune(middle, PruneOptions(layers=FirstK(k=4)))
    assert student.config.sinusoidal_pos_embds
    torch.testing.assert_close(outputs(student), outputs(teacher), rtol=0, atol=1e-5)


def test_an_untied_student_has_a_decoder_of_its_own() -> None:
    teacher = teacher_with(tie_word_embeddings=False)
    theirs = teacher.state_dict()
    student, _ = prune(teacher, PruneOptions())
    words, decoder = student.get_input_embeddings().weight, student.get_output_embeddings().weight
    assert torch.equal(words, theirs["bert.embeddings.word_embeddings.weight"])
    assert torch.equal(decoder, theirs["cls.predictions.decoder.weight"])
    assert not torch.equal(words, decoder)


def test_another_epsilon_cannot_become_a_distilbert() -> None:
    teacher = teacher_with(layer_norm_eps=1e-5)
    with pytest.raises(ConfigError, match=r"layer_norm_eps is 1e-05.*choose 'bert'") as caught:
        prune(teacher, PruneOptions())
    assert caught.value.field == ("student_family",)


@pytest.mark.parametrize("family", ["distilbert", "bert"])
def test_a_random_student_is_built_like_its_teacher(family: str) -> None:
    teacher = teacher_with(**OTHER)
    shape = fresh_student_shape(FreshStudent(family=family, layers=1), shape_of(teacher))
    config = build_student(shape, teacher, generator_seed=1).config
    assert not config.tie_word_embeddings
    assert config.initializer_range == 0.1
    assert config.pad_token_id is None
    if family == "bert":
        assert (config.layer_norm_eps, config.hidden_act, config.type_vocab_size) == (
            1e-2,
            "relu",
            3,
        )
    else:
        assert config.activation == "relu"


def test_every_other_into_distilbert(teacher: MaskedLM) -> None:
    student, report = prune(teacher, PruneOptions())
    ours, theirs = student.state_dict(), teacher.state_dict()
    assert report.kept_layers == [0, 2]
    assert set(report.copied) == set(ours)
    pairs = {
        "attention.q_lin": "attention.self.query",
        "attention.k_lin": "attention.self.key",
        "attention.v_lin": "attention.self.value",
        "attention.out_lin": "attention.output.dense",
        "sa_layer_norm": "attention.output.LayerNorm",
        "ffn.lin1": "intermediate.dense",
        "ffn.lin2": "output.dense",
        "output_layer_norm": "output.LayerNorm",
    }
    for student_layer, teacher_layer in ((0, 0), (1, 2)):
        for ours_part, theirs_part in pairs.items():
            for leaf in ("weight", "bias"):
                name = f"distilbert.transformer.layer.{student_layer}.{ours_part}.{leaf}"
                source = f"bert.encoder.layer.{teacher_layer}.{theirs_part}.{leaf}"
                assert torch.equal(ours[name], theirs[source]), name
                assert report.copied[name] == source
    for name, source in {
        "distilbert.embeddings.word_embeddings.weight": "bert.embeddings.word_embeddings.weight",
        "distilbert.embeddings.LayerNorm.weight": "bert.embeddings.LayerNorm.weight",
        "vocab_transform.weight": "cls.predictions.transform.dense.weight",
        "vocab_layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
        "vocab_projector.weight": "cls.predictions.decoder.weight",
        "vocab_projector.bias": "cls.predictions.decoder.bias",
    }.items():
        assert torch.equal(ours[name], theirs[source]), name
    positions = (
        theirs["bert.embeddings.position_embeddings.weight"]
        + theirs["bert.embeddings.token_type_embeddings.weight"][0]
    )
    assert torch.equal(ours["distilbert.embeddings.position_embeddings.weight"], positions)


def test_report_names_every_teacher_tensor_left_behind(teacher: MaskedLM) -> None:
    _, report = prune(teacher, PruneOptions())
    assert report.dropped
    assert all(
        name.startswith(("bert.encoder.layer.1.", "bert.encoder.layer.3."))
        for name in report.dropped
    )
    assert len(report.dropped) == 2 * 16


def test_published_setting_leaves_the_head_transform_random(teacher: MaskedLM) -> None:
    student, report = prune(teacher, PruneOptions(copy_head_transform=False))
    assert report.fresh == [
        "vocab_transform.weight",
        "vocab_transform.bias",
        "vocab_layer_norm.weight",
        "vocab_layer_norm.bias",
    ]
    theirs = teacher.state_dict()["cls.predictions.transform.dense.weight"]
    assert not torch.equal(student.state_dict()["vocab_transform.weight"], theirs)
    again, _ = prune(teacher, PruneOptions(copy_head_transform=False))
    assert torch.equal(
        again.state_dict()["vocab_transform.weight"], student.state_dict()["vocab_transform.weight"]
    )


def test_projector_stays_tied_to_the_embeddings(teacher: MaskedLM) -> None:
    student, _ = prune(teacher, PruneOptions())
    words = student.get_input_embeddings().weight
    assert student.get_output_embeddings().weight.data_ptr() == words.data_ptr()


def test_distilbert_teacher(teacher: MaskedLM) -> None:
    middle, _ = prune(teacher, PruneOptions(layers=FirstK(k=4)))
    student, report = prune(middle, PruneOptions(layers=FirstK(k=4)))
    torch.testing.assert_close(outputs(student), outputs(teacher), rtol=1e-4, atol=1e-5)
    assert report.dropped == []
    with pytest.raises(ConfigError, match="student_family"):
        prune(middle, PruneOptions(student_family="bert"))
