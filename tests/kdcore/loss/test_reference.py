"""The loss terms against the formulas written out, and against the public recipe's own calls."""

import pytest
import torch
from torch import nn

from kdcore.loss.reference import cosine_loss, mlm_loss, mse_loss, soft_target_loss


def logits(positions: int, vocab: int, seed: int) -> torch.Tensor:
    return torch.randn(positions, vocab, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
@pytest.mark.parametrize("positions", [1, 13])
def test_soft_target_loss_is_the_formula(temperature: float, positions: int) -> None:
    student, teacher = logits(positions, 37, 0), logits(positions, 37, 1)
    p = (teacher / temperature).exp() / (teacher / temperature).exp().sum(-1, keepdim=True)
    q = (student / temperature).exp() / (student / temperature).exp().sum(-1, keepdim=True)
    expected = (p * (p.log() - q.log())).sum() / positions * temperature**2
    torch.testing.assert_close(soft_target_loss(student, teacher, temperature), expected)


def test_soft_target_loss_is_distilberts_call() -> None:
    student, teacher = logits(11, 29, 2), logits(11, 29, 3)
    theirs = (
        nn.KLDivLoss(reduction="batchmean")(
            nn.functional.log_softmax(student / 2.0, dim=-1),
            nn.functional.softmax(teacher / 2.0, dim=-1),
        )
        * 2.0**2
    )
    torch.testing.assert_close(soft_target_loss(student, teacher, 2.0), theirs)


def test_soft_target_loss_of_equal_logits_is_zero() -> None:
    same = logits(5, 17, 4)
    assert soft_target_loss(same, same, 2.0).abs() < 1e-6


def test_mlm_loss_is_cross_entropy() -> None:
    scores, labels = logits(7, 19, 5), torch.tensor([0, 3, 18, 4, 4, 1, 9])
    expected = -scores.log_softmax(-1)[torch.arange(7), labels].mean()
    torch.testing.assert_close(mlm_loss(scores, labels), expected)


def test_mlm_loss_without_positions_is_zero_and_has_a_gradient() -> None:
    scores = torch.zeros(0, 19, requires_grad=True)
    loss = mlm_loss(scores, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0


def test_cosine_loss_is_distilberts_call() -> None:
    student, teacher = logits(9, 16, 6), logits(9, 16, 7)
    theirs = nn.CosineEmbeddingLoss(reduction="mean")(student, teacher, torch.ones(9))
    torch.testing.assert_close(cosine_loss(student, teacher), theirs)


def test_mse_loss_sums_over_the_vocabulary_and_averages_over_positions() -> None:
    student, teacher = logits(4, 6, 8), logits(4, 6, 9)
    torch.testing.assert_close(mse_loss(student, teacher), ((student - teacher) ** 2).sum() / 4)


@pytest.mark.parametrize("loss", [cosine_loss, mse_loss, lambda s, t: soft_target_loss(s, t, 2.0)])
def test_gradients(loss) -> None:  # type: ignore[no-untyped-def]
    student = torch.randn(3, 5, dtype=torch.float32, requires_grad=True)
    teacher = torch.randn(3, 5)
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    direction = torch.randn(3, 5)
    step = 1e-2
    numeric = (
        loss(student + step * direction, teacher) - loss(student - step * direction, teacher)
    ) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=2e-2, atol=1e-3)
