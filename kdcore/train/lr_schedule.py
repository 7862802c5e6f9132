"""The learning rate of every step."""

import math


def linear_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Learning-rate factor of `step`: linear warm-up to 1, then linear decay to 0.

    The formula of `transformers.get_linear_schedule_with_warmup`.
    """
    warmup = math.ceil(warmup_fraction * total_steps)
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup))
