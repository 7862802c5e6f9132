"""Finds the first step after which a loss, the gradient or a weight is NaN or infinite."""

import math

import torch
from torch import Tensor

from kdcore.data.prefetch import TrainingPlan
from kdcore.errors import NonFiniteLoss
from kdcore.model.bert import MaskedLM


class NonFiniteDetector:
    """Checks the losses of every step, and knows later which step was the first that went wrong.

    On a GPU its flags stay on the device, without synchronising, until `raise_if_nonfinite` reads
    them. On the CPU reading costs nothing, so it does so at every step.
    """

    def __init__(self, plan: TrainingPlan, model: MaskedLM) -> None:
        self._plan, self._model = plan, model
        self._names: list[str] = []
        self._first = torch.tensor(-1, device=model.device)
        self._found = torch.zeros((), dtype=torch.float64, device=model.device)

    def see(self, step: int, values: dict[str, Tensor]) -> None:
        """Check the losses of `step` (from 0); on the CPU, raises NonFiniteLoss."""
        self._look(step, values)
        if self._model.device.type == "cpu":
            self.raise_if_nonfinite()

    def _look(self, step: int, values: dict[str, Tensor]) -> None:
        self._names = list(values)
        found = torch.stack([value.detach().double() for value in values.values()])
        begins = (self._first < 0) & ~found.isfinite().all()
        self._first = torch.where(begins, step, self._first)
        self._found = torch.where(begins, found, self._found)

    def raise_if_nonfinite(self) -> None:
        """Raise NonFiniteLoss if a step so far went wrong; waits for the device."""
        step = int(self._first.item())
        if step >= 0:
            bad = [name for name, value in zip(self._names, self._found.tolist(), strict=True)
                   if not math.isfinite(value)]  # fmt: skip
            raise self._error(step, ", ".join(bad))

    def raise_if_weights_nonfinite(self, done: int) -> None:
        """Raise NonFiniteLoss if the weights after `done` steps must not be saved."""
        self.raise_if_nonfinite()
        sound = [parameter.detach().isfinite().all() for parameter in self._model.parameters()]
        if not torch.stack(sound).all().item():
            raise self._error(max(0, done - 1), "the weights")

    def _error(self, step: int, what: str) -> NonFiniteLoss:
        (epoch, first), (_, last) = self._plan.batches(step)[0], self._plan.batches(step)[-1]
        return NonFiniteLoss(
            step + 1,
            f"{what} became NaN or infinite at step {step + 1} (epoch {epoch + 1}, batches "
            f"{first + 1} to {last + 1}): lower the learning rate or the weight decay, warm up "
            "longer, clip the gradients, or train in fp32",
        )
