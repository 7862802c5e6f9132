"""LayerDrop drops the expected share, redrawn at every step, and never in evaluation."""

import numpy as np
import torch
from transformers import BertForMaskedLM

from kdcore.model.bert import build_teacher, encoder
from kdcore.model.encoder import Rows, last_hidden
from kdcore.model.layerdrop import layers_active
from tests.fixtures.configs import tiny_model

TINY = tiny_model(hidden_size=16, max_positions=16, dropout=0.0)


def test_keeps_the_expected_share_of_every_layer() -> None:
    updates, rate = 4000, 0.3
    kept = [0] * 6
    for step in range(updates):
        for layer in layers_active(6, rate, seed=3, step=step):
            kept[layer] += 1
    # Binomial: the standard deviation of a share is 0.0072, so 5 of them are 0.036.
    assert all(abs(count / updates - (1 - rate)) < 0.036 for count in kept)


def test_layers_are_redrawn_at_every_step_and_repeat_for_the_same_step() -> None:
    draws = [tuple(layers_active(12, 0.5, seed=0, step=step)) for step in range(50)]
    assert len(set(draws)) > 40
    assert draws == [tuple(layers_active(12, 0.5, seed=0, step=step)) for step in range(50)]
    assert draws != [tuple(layers_active(12, 0.5, seed=1, step=step)) for step in range(50)]


def test_rate_zero_keeps_all() -> None:
    assert layers_active(5, 0.0, seed=0, step=9) == [0, 1, 2, 3, 4]


def encode(model: BertForMaskedLM, ids: torch.Tensor, layers: list[int] | None) -> torch.Tensor:
    lengths = np.full(len(ids), ids.shape[1])
    rows = Rows.of(ids.numpy().ravel(), lengths, torch.device("cpu"))
    with torch.no_grad():
        return last_hidden(model, rows, layers).view(*ids.shape, -1)


def test_a_dropped_layer_is_passed_by() -> None:
    model = build_teacher(TINY, vocab_size=50, pad_id=0, generator_seed=0).eval()
    ids = torch.randint(0, 50, (2, 8))
    with torch.no_grad():
        hidden = model.bert.embeddings(ids)
        for index in (0, 2):
            hidden = encoder(model).layer[index](hidden, None)
    torch.testing.assert_close(encode(model, ids, [0, 2]), hidden)
    assert not torch.allclose(encode(model, ids, None), hidden)


def test_all_layers_may_be_dropped() -> None:
    model = build_teacher(TINY, vocab_size=50, pad_id=0, generator_seed=0).eval()
    ids = torch.randint(0, 50, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(encode(model, ids, []), model.bert.embeddings(ids))
