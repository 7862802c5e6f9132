"""Masking rates, and what may never be masked or drawn."""

import numpy as np
import pytest

from kdcore.data.masking import IGNORED, mask_smoothed, mask_uniform
from kdcore.rng import rng

SPECIAL = frozenset({0, 1, 2, 3, 4})
MASK_ID, VOCAB = 4, 1000


def some_ids(seed: int, shape: tuple[int, int] = (400, 500)) -> np.ndarray:
    ids = rng(seed, "ids").integers(5, VOCAB, size=shape)
    ids[:, 0], ids[:, -1] = 2, 3
    return ids


def uniform(ids: np.ndarray, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return mask_uniform(ids, SPECIAL, MASK_ID, VOCAB, rate, rng(seed, "mask", 7))


def smoothed(ids, attention, counts, smoothing, rate=0.15, seed=0):
    return mask_smoothed(
        ids, attention, counts, smoothing, SPECIAL, MASK_ID, VOCAB, rate, rng(seed, "mask", 7)
    )


def assert_share(hits: int, draws: int, share: float) -> None:
    """Within five standard deviations of the binomial."""
    assert abs(hits - share * draws) < 5 * np.sqrt(draws * share * (1 - share))


def assert_80_10_10(ids: np.ndarray, masked: np.ndarray, labels: np.ndarray) -> None:
    chosen = labels != IGNORED
    n = int(chosen.sum())
    assert_share(int((masked[chosen] == MASK_ID).sum()), n, 0.8)
    # A random id is the old one by chance once in 995 times.
    changed = chosen & (masked != MASK_ID) & (masked != ids)
    assert_share(int(changed.sum()), n, 0.1 * (1 - 1 / 995))
    assert (labels[chosen] == ids[chosen]).all()
    assert (masked[~chosen] == ids[~chosen]).all()
    assert not np.isin(masked[changed], sorted(SPECIAL)).any()


def test_uniform_masking_has_the_rates_of_bert() -> None:
    ids = some_ids(0)
    masked, labels = uniform(ids, 0.15)
    ordinary = ~np.isin(ids, sorted(SPECIAL))
    assert_share(int((labels != IGNORED).sum()), int(ordinary.sum()), 0.15)
    assert (labels[~ordinary] == IGNORED).all()
    assert_80_10_10(ids, masked, labels)
    assert masked.dtype == labels.dtype == np.int64


def test_every_position_is_drawn_equally_often() -> None:
    hits = sum((uniform(some_ids(s), 0.3, s)[1] != IGNORED).sum(0) for s in range(10))[1:-1]
    expected = 10 * 400 * 0.3
    chi_square = ((hits - expected) ** 2 / (expected * 0.7)).sum()
    degrees = len(hits)
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_replacements_are_drawn_from_the_whole_vocabulary() -> None:
    ids = np.full((500, 1000), 5)
    masked, _ = uniform(ids, 0.9)
    counts = np.bincount(masked[(masked != 5) & (masked != MASK_ID)], minlength=VOCAB)
    assert counts[:6].sum() == 0
    seen = counts[6:]
    chi_square = ((seen - seen.mean()) ** 2 / seen.mean()).sum()
    assert abs(chi_square - len(seen)) < 5 * np.sqrt(2 * len(seen))


def test_masks_are_a_function_of_seed_and_counters() -> None:
    ids = some_ids(0, (8, 64))
    one, again, other = uniform(ids, 0.15), uniform(ids, 0.15), uniform(ids, 0.15, seed=1)
    assert (one[0] == again[0]).all()
    assert (one[1] == again[1]).all()
    assert (one[1] != other[1]).any()


def test_something_is_always_masked_unless_all_is_special() -> None:
    ids = np.array([[2, 9, 3, 0]])
    for seed in range(20):
        _, labels = uniform(ids, 0.01, seed)
        assert labels.tolist() == [[IGNORED, 9, IGNORED, IGNORED]]
    only_special = np.array([[2, 3, 0, 0]])
    attention = np.array([[1, 1, 0, 0]])
    for _, labels in (
        uniform(only_special, 0.5),
        smoothed(only_special, attention, np.ones(VOCAB, np.int64), 0.7),
    ):
        assert (labels == IGNORED).all()


def test_smoothed_masking_draws_the_exact_number_and_never_padding() -> None:
    ids = some_ids(1, (32, 128))
    attention = (np.arange(128) < np.arange(40, 104, 2)[:, None]).astype(np.int64)
    masked, labels = smoothed(ids, attention, np.ones(VOCAB, np.int64), 0.7)
    assert (labels != IGNORED).sum() == round(0.15 * attention.sum())
    assert (labels[attention == 0] == IGNORED).all()
    assert (masked[attention == 0] == ids[attention == 0]).all()
    assert not np.isin(labels, sorted(SPECIAL)).any()


def test_smoothed_masking_keeps_80_10_10() -> None:
    ids = some_ids(2)
    masked, labels = smoothed(ids, np.ones_like(ids), np.ones(VOCAB, np.int64), 0.7)
    assert_80_10_10(ids, masked, labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.7, 1.0])
def test_rarer_tokens_are_drawn_more_often(smoothing: float) -> None:
    counts = np.ones(VOCAB, np.int64)
    counts[5], counts[6] = 1000, 10
    ids = rng(3, "ids").integers(5, 7, size=(500, 1000))
    # A small share, so that drawing without replacement is nearly drawing with it.
    _, labels = smoothed(ids, np.ones_like(ids), counts, smoothing, rate=0.01)
    common, rare = (labels == 5).sum(), (labels == 6).sum()
    share = (ids == 5).sum() * 1000.0**-smoothing
    share = share / (share + (ids == 6).sum() * 10.0**-smoothing)
    assert common + rare == 5000
    assert abs(common - 5000 * share) < 5 * np.sqrt(5000 * share * (1 - share)) + 10


def test_smoothed_masks_are_a_function_of_seed_and_counters() -> None:
    ids = some_ids(4, (8, 64))
    counts = np.arange(VOCAB) + 1
    one, again = (smoothed(ids, np.ones_like(ids), counts, 0.7) for _ in range(2))
    assert (one[0] == again[0]).all()
    assert (one[1] == again[1]).all()
