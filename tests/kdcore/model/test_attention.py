"""Dropout and attention without padding, against their definitions and torch's own."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

import kdcore.model.attention as attention_module
from kdcore.model.attention import Layout, attention, dropout


@pytest.fixture(autouse=True, params=[1 << 20, 150])
def groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with all sequences in one group where they are alike, once with one or two in each."""
    monkeypatch.setattr(attention_module, "_WEIGHTS_AT_ONCE", request.param)


def tensors(rows: int, hidden: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(rows, hidden, dtype=torch.float64, generator=generator, requires_grad=True)
        for _ in range(3)
    ]


LENGTHS = (6, 6, 6, 1, 9)


def reference(tensors: list[torch.Tensor], heads: int) -> torch.Tensor:
    """torch's attention, sequence by sequence."""
    mixed = []
    for q, k, v in zip(*(tensor.split(LENGTHS) for tensor in tensors), strict=True):
        split = (x.view(1, len(x), heads, -1).transpose(1, 2) for x in (q, k, v))
        mixed.append(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)[0])
    return torch.cat(mixed)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_torchs(heads: int) -> None:
    inputs = tensors(sum(LENGTHS), 8)
    ours = attention(*inputs, Layout(LENGTHS, LENGTHS), heads, 0.0)
    torch.testing.assert_close(ours, reference(inputs, heads))


@pytest.mark.parametrize("heads", [1, 4])
def test_the_padded_kernel_for_other_devices_gives_the_same(heads: int) -> None:
    inputs = tensors(sum(LENGTHS), 8)
    for asked in (LENGTHS, (2, 0, 6, 1, 3)):
        kept = torch.cat([torch.arange(n) < m for n, m in zip(LENGTHS, asked, strict=True)])
        arguments = (inputs[0][kept], *inputs[1:], Layout(LENGTHS, asked), heads, 0.0)
        ours = attention_module._padded_attention(*arguments)
        torch.testing.assert_close(ours, reference(inputs, heads)[kept])
        torch.testing.assert_close(attention(*arguments), ours)


@pytest.mark.parametrize("kernel", [attention, attention_module._padded_attention])
def test_where_nothing_is_asked_the_gradients_are_zeros(kernel: Callable[..., Tensor]) -> None:
    """A microbatch without a label: on another rank the same parameters do have gradients."""
    for lengths in (LENGTHS, (5, 5)):
        query, key, value = tensors(sum(lengths), 8)
        mixed = kernel(query[:0], key, value, Layout(lengths, (0,) * len(lengths)), 2, 0.1)
        assert mixed.shape == (0, 8)
        mixed.sum().backward()
        for each in (query, key, value):
            assert each.grad is not None
            assert torch.equal(each.grad, torch.zeros_like(each))


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("asked", [LENGTHS, (2, 0, 6, 1, 3)])
def test_attention_gradients(rate: float, asked: tuple[int, ...]) -> None:
    query, key, value = tensors(sum(LENGTHS), 4)

    def repeated(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)  # the same weights are dropped each time
        return attention(*inputs, Layout(LENGTHS, asked), 2, rate)

    inputs = (query[: sum(asked)].detach().requires_grad_(), key, value)
    assert torch.autograd.gradcheck(repeated, inputs)


def test_attention_drops_weights_at_the_rate_and_keeps_their_mean() -> None:
    rows, rate = 400, 0.25
    value = torch.ones(rows, 1)
    mixed = attention(
        torch.zeros(rows, 1), torch.zeros(rows, 1), value, Layout((rows,), (rows,)), 1, rate
    )
    # Each output is the kept share of 400 equal weights, scaled: mean 1, deviation 0.029.
    assert abs(mixed.mean().item() - 1.0) < 0.01
    assert 0.015 < mixed.std().item() < 0.045


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_share_and_the_mean(rate: float) -> None:
    torch.manual_seed(1)
    values = torch.ones(1001, 999, requires_grad=True)
    dropped = dropout(values, rate)
    share = (dropped != 0).double().mean().item()
    assert abs(share - (1 - rate)) < 0.003  # six standard deviations at worst
    torch.testing.assert_close(dropped[dropped != 0].min().item(), 1 / (1 - rate))
    dropped.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, dropped.detach())


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(2)
    kept = (dropout(torch.ones(1 << 20), 0.5) != 0).double()
    for shift in (1, 2, 3, 64):
        both = (kept[shift:] * kept[:-shift]).mean().item()
        assert abs(both - 0.25) < 0.003


def test_rate_zero_changes_nothing() -> None:
    values = torch.randn(5, 7)
    assert dropout(values, 0.0) is values
