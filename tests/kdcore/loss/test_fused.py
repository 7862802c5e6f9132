"""The fused loss against its plain twin: values, gradients, odd sizes, bf16."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

import kdcore.loss.fused as fused_module
from kdcore.loss.fused import LossWeights, fused_loss
from kdcore.loss.reference import mlm_loss, mse_loss, soft_target_loss
from kdcore.model.encoder import Projection

VOCAB, HIDDEN = 203, 12
MIXES = [mix for mix in itertools.product((0.0, 2.0), (0.0, 5.0), (0.0, 0.5)) if any(mix)]


def projection(positions: int, dtype: torch.dtype, seed: int, vocab: int = VOCAB) -> Projection:
    generator = torch.Generator().manual_seed(seed)
    return Projection(
        *(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
            for shape in ((positions, HIDDEN), (vocab, HIDDEN), (vocab,))
        )
    )


def logits(of: Projection) -> Tensor:
    return of.hidden @ of.weight.t() + of.bias


def plain(
    student: Projection, teacher: Projection, labels: np.ndarray, mix: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    ours, theirs = logits(student), logits(teacher).detach()
    at = torch.from_numpy(np.flatnonzero(labels >= 0))
    ids = torch.from_numpy(labels)[at]
    sums = {
        "mlm": mlm_loss(ours[at], ids) * len(at),
        "ce": soft_target_loss(ours, theirs, mix.temperature) * len(ours),
        "mse": mse_loss(ours, theirs) * len(ours),
    }
    sums = {name: value for name, value in sums.items() if getattr(mix, name)}
    return sum(getattr(mix, name) * value for name, value in sums.items()), sums  # type: ignore[return-value]


def labels_of(positions: int, share: float, vocab: int = VOCAB) -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.where(rng.random(positions) < share, rng.integers(0, vocab, positions), -100)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("at_once", [1 << 24, 7 * VOCAB])
@pytest.mark.parametrize(("mlm", "ce", "mse"), MIXES)
def test_is_the_plain_loss_with_its_gradients(
    mlm: float, ce: float, mse: float, at_once: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_module, "LOGITS_AT_ONCE", at_once)
    monkeypatch.setattr(fused_module, "_CACHED_ROWS", 64)
    positions = 40
    student, teacher = (projection(positions, torch.float32, seed) for seed in (0, 1))
    labels = labels_of(positions, share)
    mix = LossWeights(
        mlm / max(1, (labels >= 0).sum()), ce / positions, mse / positions, temperature=2.0
    )
    total, sums = fused_loss(student, teacher, labels, mix)
    expected, expected_sums = plain(student, teacher, labels, mix)
    assert sums.keys() == expected_sums.keys()
    for name, value in sums.items():
        torch.testing.assert_close(value.float(), expected_sums[name].detach())
    torch.testing.assert_close(total, expected)
    inputs = (student.hidden, student.weight, student.bias)
    for ours, theirs in zip(
        torch.autograd.grad(total, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_in_place_adds_to_the_projectors_gradients() -> None:
    once, twice = (projection(40, torch.float32, 0) for _ in range(2))
    teacher = projection(40, torch.float32, 1)
    labels = labels_of(40, 0.3)
    mix = LossWeights(mlm=0.1, ce=0.2, temperature=2.0)
    fused_loss(once, teacher, labels, mix)[0].backward()
    for _ in range(2):
        fused_loss(twice, teacher, labels, mix, in_place=True)[0].backward()
    for ours, theirs in zip(vars(twice).values(), vars(once).values(), strict=True):
        torch.testing.assert_close(ours.grad, 2 * theirs.grad)


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradcheck(positions: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_module, "_CACHED_ROWS", 8)
    student, teacher = (projection(positions, torch.float64, seed, vocab=19) for seed in (0, 1))
    labels = labels_of(positions, 0.6, vocab=19)
    teacher = Projection(*(part.detach() for part in vars(teacher).values()))

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mix = LossWeights(mlm=0.7, ce=1.3, mse=0.2, temperature=temperature)
        return fused_loss(Projection(hidden, weight, bias), teacher, labels, mix)[0]

    assert torch.autograd.gradcheck(loss, (student.hidden, student.weight, student.bias))


def test_large_logits_neither_overflow_nor_vanish() -> None:
    student, teacher = (projection(9, torch.float32, seed) for seed in (0, 1))
    for side in (student, teacher):
        side.hidden.data.mul_(300.0)
    mix = LossWeights(mlm=1.0, ce=1.0, temperature=1.0)
    total, _ = fused_loss(student, teacher, labels_of(9, 0.5), mix)
    expected, _ = plain(student, teacher, labels_of(9, 0.5), mix)
    assert total.isfinite()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)


def test_without_positions_the_loss_is_zero() -> None:
    student, teacher = (projection(0, torch.float32, seed) for seed in (0, 1))
    total, sums = fused_loss(student, teacher, labels_of(0, 1.0), LossWeights(mlm=1.0, ce=1.0))
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == sums["ce"].item() == sums["mlm"].item() == 0.0
    assert student.weight.grad is not None
    assert not student.weight.grad.any()


def test_bf16_deviates_no_more_than_bf16_products_do() -> None:
    student, teacher = (projection(64, torch.float32, seed) for seed in (0, 1))
    for side in (student, teacher):
        side.weight.data.mul_(0.2)
    labels = labels_of(64, 0.3)
    mix = LossWeights(mlm=2.0 / 19, ce=5.0 / 64, temperature=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = fused_loss(student, teacher, labels, mix)
    expected, _ = plain(student, teacher, labels, mix)
    torch.testing.assert_close(total, expected, rtol=5e-3, atol=0)
    inputs = (student.hidden, student.weight, student.bias)
    for ours, theirs in zip(
        torch.autograd.grad(total, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        assert (ours - theirs).norm() / theirs.norm() < 1e-2


def test_without_gradients_none_are_made() -> None:
    student = projection(20, torch.float32, 0)
    labels = labels_of(20, 1.0)
    with torch.no_grad():
        total, sums = fused_loss(student, None, labels, LossWeights(mlm=1.0))
    assert not total.requires_grad
    torch.testing.assert_close(total.double(), sums["mlm"])
