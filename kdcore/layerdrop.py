"""LayerDrop (Fan et al. 2019, arXiv:1909.11556): whole encoder layers dropped during training."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch import nn

from kdcore.batches import rng
from kdcore.models import MaskedLM, encoder


def layers_active(layers: int, drop_rate: float, seed: int, step: int) -> list[int]:
    """Layers that work at this update, a function of (seed, step) only.

    Each of the `layers` is dropped with probability `drop_rate`, independently of the others; it
    may be that none is left, as in the paper's implementation.
    """
    if drop_rate == 0.0:
        return list(range(layers))
    draws = rng(seed, "layerdrop", step).random(layers)
    return [int(layer) for layer in np.flatnonzero(draws >= drop_rate)]


@contextmanager
def only_layers(model: MaskedLM, active: list[int]) -> Iterator[None]:
    """Run `model` with these encoder layers only; a dropped layer costs nothing.

    The encoder loops over its `layer` list, so a shorter list is the whole of it: dropped layers
    get no gradient and the optimiser leaves them as they are.
    """
    owner = encoder(model)
    every = owner.layer
    assert isinstance(every, nn.ModuleList)
    if len(active) == len(every):
        yield
        return
    owner.layer = nn.ModuleList([every[index] for index in active])
    try:
        yield
    finally:
        owner.layer = every
