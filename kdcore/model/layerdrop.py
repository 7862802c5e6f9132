"""LayerDrop (Fan et al. 2019, arXiv:1909.11556): whole encoder layers dropped during training."""

import numpy as np

from kdcore.rng import rng


def layers_active(layers: int, drop_rate: float, seed: int, step: int) -> list[int]:
    """The layers that are not dropped at this optimizer step, a function of (seed, step) only.

    Each of the `layers` is dropped with probability `drop_rate`, independently of the others; all
    may be dropped, as in the paper's implementation. A dropped layer is not run: it costs
    nothing, gets no gradient, and the optimizer does not change it.
    """
    if drop_rate == 0.0:
        return list(range(layers))
    draws = rng(seed, "layerdrop", step).random(layers)
    return [int(layer) for layer in np.flatnonzero(draws >= drop_rate)]
