"""The first step that went wrong is found, even if it is asked for after later ones."""

import pytest
import torch
from torch import nn

from kdcore.data.prefetch import TrainingPlan
from kdcore.errors import NonFiniteLoss
from kdcore.train.nonfinite import NonFiniteDetector

PLAN = TrainingPlan(batches_per_epoch=5, accumulation_steps=2, total_steps=30)
NAN, INF = float("nan"), float("inf")


class Model(nn.Module):
    """As much of a model as is looked at."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.device = device


class Silent(NonFiniteDetector):
    """Asks for nothing by itself, as on a GPU."""

    def see(self, step: int, values: dict[str, torch.Tensor]) -> None:
        self._look(step, values)


def losses(loss: float, grad_norm: float = 1.0) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "grad_norm": torch.tensor(grad_norm).double()}


@pytest.fixture
def model() -> Model:
    return Model(torch.device("cpu"))


def test_on_the_cpu_it_says_so_at_once(model: Model) -> None:
    watch = NonFiniteDetector(PLAN, model)  # type: ignore[arg-type]
    watch.see(0, losses(2.0))
    with pytest.raises(NonFiniteLoss, match=r"grad_norm .*step 2 \(epoch 1, batches 3 to 4\)"):
        watch.see(1, losses(2.0, INF))


def test_asked_later_it_names_the_first_one_and_what_was_wrong_then(model: Model) -> None:
    watch = Silent(PLAN, model)  # type: ignore[arg-type]
    for step, values in enumerate([losses(2.0), losses(NAN), losses(NAN, NAN), losses(3.0)]):
        watch.see(step, values)
    with pytest.raises(NonFiniteLoss, match=r"^loss became .*step 2 ") as caught:
        watch.raise_if_nonfinite()
    assert caught.value.step == 2


def test_weights_that_are_not_finite_are_not_kept(model: Model) -> None:
    watch = NonFiniteDetector(PLAN, model)  # type: ignore[arg-type]
    watch.see(0, losses(2.0))
    watch.raise_if_weights_nonfinite(1)
    with torch.no_grad():
        model.weight[1] = INF
    with pytest.raises(NonFiniteLoss, match=r"weights .*step 3 \(epoch 1, batches 5 to 5\)"):
        watch.raise_if_weights_nonfinite(3)
