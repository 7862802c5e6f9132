"""Pruning, tensor by tensor."""

import pytest
import torch

from kdcore.config import EveryOther, Explicit, FirstK, LastK, PruneOptions, ScratchModel, Spread
from kdcore.errors import ConfigError
from kdcore.models import MaskedLM, build_teacher
from kdcore.prune import prune
from kdcore.shapes import layers_to_keep

TINY = ScratchModel(
    layers=4, hidden_size=16, heads=2, intermediate_size=32, max_positions=16, dropout=0.0
)


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


@pytest.mark.parametrize("family", ["distilbert", "bert"])
def test_keeping_every_layer_keeps_the_function(teacher: MaskedLM, family: str) -> None:
    options = PruneOptions(layers=FirstK(k=4), student_family=family)
    student, report = prune(teacher, options)
    torch.testing.assert_close(outputs(student), outputs(teacher), rtol=1e-4, atol=1e-5)
    assert report.fresh == []


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
