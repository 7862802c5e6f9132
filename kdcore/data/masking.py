"""Draws which tokens a masked language model must predict; imports no torch.

Of the drawn tokens 80 % become [MASK], 10 % a random token, 10 % stay as they are (BERT).
"""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
IGNORED = -100
"""The label of a position that is not to be predicted."""
MASK_SHARE, REPLACE_SHARE = 0.8, 0.1


def mask_uniform(
    input_ids: Ids,
    special_ids: frozenset[int],
    mask_id: int,
    vocab_size: int,
    rate: float,
    rng: np.random.Generator,
) -> tuple[Ids, Ids]:
    """(masked_ids, labels), both (n, t): each non-special token is drawn with chance `rate`.

    At least one token is drawn if there is any to draw, so that the loss is always defined.
    """
    maskable = ~np.isin(input_ids, sorted(special_ids))
    draws = rng.random(input_ids.shape)
    chosen = (draws < rate) & maskable
    if not chosen.any() and maskable.any():
        chosen.flat[np.where(maskable, draws, np.inf).argmin()] = True
    return _corrupt(input_ids, chosen, special_ids, mask_id, vocab_size, rng)


def mask_smoothed(
    input_ids: Ids,
    attention_mask: Ids,
    counts: Ids,
    smoothing: float,
    special_ids: frozenset[int],
    mask_id: int,
    vocab_size: int,
    rate: float,
    rng: np.random.Generator,
) -> tuple[Ids, Ids]:
    """(masked_ids, labels), both (n, t), with rarer tokens drawn more often (as DistilBERT).

    Draws round(rate * non-padding) positions of the whole batch, without replacement, with
    weights count ** -smoothing; `counts` is (vocab_size,), special tokens weigh nothing.
    """
    weights = np.maximum(counts, 1).astype(np.float64) ** -smoothing
    weights[sorted(special_ids)] = 0.0
    weight = np.where(attention_mask.astype(bool), weights[input_ids], 0.0).ravel()
    drawable = np.count_nonzero(weight)
    wanted = min(int(drawable), max(1, round(rate * int(attention_mask.sum()))))
    # The first arrivals of exponential clocks are a weighted draw without replacement.
    clocks = rng.standard_exponential(weight.shape)
    with np.errstate(divide="ignore"):
        arrivals = clocks / weight
    chosen = np.zeros(input_ids.shape, bool)
    if wanted:
        chosen.flat[np.argpartition(arrivals, wanted - 1)[:wanted]] = True
    return _corrupt(input_ids, chosen, special_ids, mask_id, vocab_size, rng)


def _corrupt(
    input_ids: Ids,
    chosen: npt.NDArray[np.bool_],
    special_ids: frozenset[int],
    mask_id: int,
    vocab_size: int,
    rng: np.random.Generator,
) -> tuple[Ids, Ids]:
    ordinary = np.setdiff1d(np.arange(vocab_size), sorted(special_ids))
    fate = rng.random(input_ids.shape)
    random_ids = ordinary[rng.integers(len(ordinary), size=input_ids.shape)]
    masked = np.where(chosen & (fate < MASK_SHARE), mask_id, input_ids)
    replaced = chosen & (fate >= MASK_SHARE) & (fate < MASK_SHARE + REPLACE_SHARE)
    labels = np.where(chosen, input_ids, IGNORED)
    return np.where(replaced, random_ids, masked).astype(np.int64), labels.astype(np.int64)
