"""LayerDrop drops the expected share, anew at every update, and never in evaluation."""

import torch

from kdcore.config import ScratchModel
from kdcore.layerdrop import layers_active, only_layers
from kdcore.models import build_teacher, encoder, last_hidden

TINY = ScratchModel(
    layers=4, hidden_size=16, heads=2, intermediate_size=32, max_positions=16, dropout=0.0
)


def test_keeps_the_expected_share_of_every_layer() -> None:
    updates, rate = 4000, 0.3
    kept = [0] * 6
    for step in range(updates):
        for layer in layers_active(6, rate, seed=3, step=step):
            kept[layer] += 1
    # Binomial: the standard deviation of a share is 0.0072, so 5 of them are 0.036.
    assert all(abs(count / updates - (1 - rate)) < 0.036 for count in kept)


def test_is_drawn_anew_at_every_update_and_repeats_for_the_same_one() -> None:
    draws = [tuple(layers_active(12, 0.5, seed=0, step=step)) for step in range(50)]
    assert len(set(draws)) > 40
    assert draws == [tuple(layers_active(12, 0.5, seed=0, step=step)) for step in range(50)]
    assert draws != [tuple(layers_active(12, 0.5, seed=1, step=step)) for step in range(50)]


def test_rate_zero_keeps_all() -> None:
    assert layers_active(5, 0.0, seed=0, step=9) == [0, 1, 2, 3, 4]


def test_only_layers_skips_the_others_and_puts_them_back() -> None:
    model = build_teacher(TINY, vocab_size=50, pad_id=0, generator_seed=0).eval()
    ids = torch.randint(0, 50, (2, 8))
    with torch.no_grad():
        whole = last_hidden(model, ids, None)
        with only_layers(model, [0, 2]):
            dropped = last_hidden(model, ids, None)
            layers = encoder(model).layer
            hidden = model.bert.embeddings(ids)
            for index in range(len(layers)):
                hidden = layers[index](hidden, None)
        assert len(encoder(model).layer) == 4
        torch.testing.assert_close(dropped, hidden)
        assert not torch.equal(whole, dropped)
        torch.testing.assert_close(last_hidden(model, ids, None), whole)


def test_all_layers_may_be_dropped() -> None:
    model = build_teacher(TINY, vocab_size=50, pad_id=0, generator_seed=0).eval()
    ids = torch.randint(0, 50, (2, 8))
    with torch.no_grad(), only_layers(model, []):
        torch.testing.assert_close(last_hidden(model, ids, None), model.bert.embeddings(ids))
