"""Helpers for gradients that are accumulated outside of autograd."""

import torch
from torch import Tensor


def own_gradient(parameter: Tensor) -> Tensor:
    """The `.grad` of a parameter to add to; zeros if it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
