"""The encoders without padding against the models of `transformers`, values and gradients."""

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from kdcore.config import PruneOptions, ScratchModel
from kdcore.data.masking import IGNORED
from kdcore.loss.fused import LossWeights, fused_loss
from kdcore.model.bert import MaskedLM, backbone, build_teacher
from kdcore.model.encoder import Rows, last_hidden, projection
from kdcore.model.prune import prune

CPU = torch.device("cpu")
SHAPE = ScratchModel(
    layers=4, hidden_size=24, heads=3, intermediate_size=40, max_positions=40, dropout=0.1
)
LENGTHS = np.array([7, 13, 13, 1, 5, 40])


@pytest.fixture(params=["bert", "distilbert", "other bert", "other distilbert"])
def model(request: pytest.FixtureRequest) -> MaskedLM:
    config = build_teacher(SHAPE, vocab_size=61, pad_id=0, generator_seed=1).config
    if "other" in request.param:
        config.tie_word_embeddings, config.hidden_act = False, "relu"
        config.layer_norm_eps = 1e-12 if "distilbert" in request.param else 1e-2
    teacher = BertForMaskedLM(config)
    for parameter in teacher.parameters():  # biases and layer norms start constant
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    if "distilbert" not in request.param:
        return teacher.eval()
    return prune(teacher, PruneOptions())[0].eval()


def padded(ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.zeros(len(LENGTHS), int(LENGTHS.max()), dtype=torch.long)
    mask = torch.arange(grid.shape[1]) < torch.from_numpy(LENGTHS)[:, None]
    grid[mask] = torch.from_numpy(ids)
    return grid, mask


@pytest.mark.parametrize("wanted", [None, [0, 3, 4, 21, 22, 33, 78], []])
def test_hidden_states_and_gradients_are_those_of_transformers(
    model: MaskedLM, wanted: list[int] | None
) -> None:
    ids = np.random.default_rng(0).integers(1, 61, int(LENGTHS.sum()))
    grid, mask = padded(ids)
    theirs = backbone(model)(input_ids=grid, attention_mask=mask.long()).last_hidden_state[mask]
    chosen = None if wanted is None else np.array(wanted, np.int64)
    if chosen is not None:
        theirs = theirs[torch.from_numpy(chosen)]
    ours = last_hidden(model, Rows.of(ids, LENGTHS, CPU), wanted=chosen)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    direction = torch.randn_like(theirs)
    parameters = list(backbone(model).parameters())
    pairs = zip(
        parameters,
        torch.autograd.grad(ours, parameters, direction, allow_unused=True),
        torch.autograd.grad(theirs, parameters, direction, allow_unused=True),
        strict=True,
    )
    for parameter, our_gradient, their_gradient in pairs:
        our_gradient, their_gradient = (
            torch.zeros_like(parameter) if g is None else g for g in (our_gradient, their_gradient)
        )
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-3, atol=1e-4)


def test_loss_and_gradients_are_those_of_transformers(model: MaskedLM) -> None:
    """The head and its fused loss, whose projector may be tied to the embeddings or not."""
    source = np.random.default_rng(0)
    ids = source.integers(1, 61, int(LENGTHS.sum()))
    labels = np.where(source.random(len(ids)) < 0.3, source.integers(1, 61, len(ids)), IGNORED)
    grid, mask = padded(ids)
    targets = torch.full_like(grid, IGNORED)
    targets[mask] = torch.from_numpy(labels)
    parameters = dict(model.named_parameters())
    theirs = model(input_ids=grid, attention_mask=mask.long(), labels=targets).loss
    theirs.backward()
    wanted = {name: each.grad for name, each in parameters.items()}
    model.zero_grad(set_to_none=True)
    hidden = last_hidden(model, Rows.of(ids, LENGTHS, CPU), in_place=True)
    mix = LossWeights(mlm=1 / int((labels != IGNORED).sum()))
    total, _ = fused_loss(projection(model, hidden), None, labels, mix, in_place=True)
    total.backward()
    torch.testing.assert_close(total, theirs, rtol=1e-5, atol=1e-6)
    for name, each in parameters.items():
        if wanted[name] is None:
            assert each.grad is None, name
        else:
            torch.testing.assert_close(each.grad, wanted[name], rtol=1e-3, atol=1e-5, msg=name)


def test_nothing_is_dropped_in_evaluation_and_something_in_training(model: MaskedLM) -> None:
    rows = Rows.of(np.arange(1, 61), np.array([30, 30]), CPU)
    torch.testing.assert_close(last_hidden(model, rows), last_hidden(model, rows), rtol=0, atol=0)
    model.train()
    torch.manual_seed(0)
    first = last_hidden(model, rows)
    assert not torch.allclose(first, last_hidden(model, rows))
    torch.manual_seed(0)
    torch.testing.assert_close(first, last_hidden(model, rows), rtol=0, atol=0)


def test_in_place_the_embeddings_get_the_same_gradient(model: MaskedLM) -> None:
    ids = np.random.default_rng(1).integers(1, 61, int(LENGTHS.sum()))
    rows = Rows.of(ids, LENGTHS, CPU)
    words = model.get_input_embeddings().weight
    last_hidden(model, rows).square().sum().backward()
    assert words.grad is not None
    plain, words.grad = words.grad, None
    for _ in range(2):
        last_hidden(model, rows, in_place=True).square().sum().backward()
    torch.testing.assert_close(words.grad, 2 * plain)
