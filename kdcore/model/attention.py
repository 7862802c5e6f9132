"""Dropout and self-attention over packed sequences (back to back, without padding).

On a CPU both are written here, since torch's own spend most of their time elsewhere than in
arithmetic: its dropout draws one random number after the other, and its attention with dropout
holds the weights of all heads of all sequences at once. On a GPU torch's kernels are used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

from kdcore.device import to_device

Lengths = npt.NDArray[np.int64]

_WEIGHTS_AT_ONCE = 1 << 20
"""Attention weights computed at once on a CPU; 4 MiB in fp32 stay in its cache."""
_RANDOM_LEVELS = 1 << 32


def dropout(values: Tensor, rate: float) -> Tensor:
    """`values` with each element zero with chance `rate`, the others scaled by 1 / (1 - rate)."""
    if rate == 0.0:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, rate)
    return _Dropout.apply(values, rate)  # type: ignore[no-any-return,no-untyped-call]


def _keep(shape: torch.Size, rate: float) -> Tensor:
    """Booleans, True with chance 1 - rate to 32 bits, from torch's default generator.

    Each 64-bit draw makes two of them; drawing them singly takes four times as long.
    """
    size = shape.numel()
    draws = torch.empty((size + 1) // 2, dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int32)[:size].view(shape)
    return bits >= round(rate * _RANDOM_LEVELS) - _RANDOM_LEVELS // 2


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rate: float) -> Tensor:
        keep = _keep(values.shape, rate)
        ctx.save_for_backward(keep)
        ctx.scale = 1.0 / (1.0 - rate)
        return torch.where(keep, values, 0.0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return torch.where(keep, gradient, 0.0).mul_(ctx.scale), None


@dataclass(frozen=True)
class Layout:
    """Lengths of the packed sequences of a batch.

    Sequence i has `keys[i]` tokens, of which the outputs of `queries[i]` are computed: fewer
    where only some positions are wanted.
    """

    keys: tuple[int, ...]
    queries: tuple[int, ...]

    def groups(self, heads: int) -> Iterator[tuple[int, slice, slice]]:
        """(sequences, their query rows, their key rows): neighbours of equal length, as many as
        fit into the cache. Sequences without queries are in no group.
        """
        first, query_row, key_row = 0, 0, 0
        while first < len(self.keys):
            shape = (self.queries[first], self.keys[first])
            most = max(1, _WEIGHTS_AT_ONCE // max(1, heads * shape[0] * shape[1]))
            last = first + 1
            while (
                last < len(self.keys)
                and last - first < most
                and (self.queries[last], self.keys[last]) == shape
            ):
                last += 1
            count = last - first
            next_query, next_key = query_row + count * shape[0], key_row + count * shape[1]
            if shape[0]:
                yield count, slice(query_row, next_query), slice(key_row, next_key)
            first, query_row, key_row = last, next_query, next_key


def attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, heads: int, dropout_rate: float
) -> Tensor:
    """Scaled dot-product attention of every sequence with itself (Vaswani et al. 2017).

    `query`: (sum of layout.queries, hidden), `key` and `value`: (sum of layout.keys, hidden);
    returns the shape of `query`. `dropout_rate` is that of the attention weights.
    """
    if query.device.type == "cpu":
        return _Attention.apply(query, key, value, layout, heads, dropout_rate)  # type: ignore[no-any-return,no-untyped-call]
    return _padded_attention(query, key, value, layout, heads, dropout_rate)


def _padded_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, heads: int, dropout_rate: float
) -> Tensor:
    """The same by torch's kernel, for which sequences of unequal length are padded."""
    if not len(query):
        # All three stay in the graph: their gradients are zeros, as on every other rank.
        return query + key[:0] + value[:0]
    queries, keys = np.array(layout.queries), np.array(layout.keys)

    def pad(rows: Tensor, lengths: Lengths) -> Tensor:
        if lengths.min() == lengths.max():
            grid = rows.view(len(lengths), int(lengths[0]), heads, -1)
        else:
            grid = rows.new_zeros(len(lengths), int(lengths.max()), *rows.shape[1:])
            grid[places(lengths)] = rows
            grid = grid.view(*grid.shape[:2], heads, -1)
        return grid.transpose(1, 2)

    def places(lengths: Lengths) -> tuple[Tensor, Tensor]:
        sequence = np.arange(len(lengths)).repeat(lengths)
        position = np.arange(lengths.sum()) - (lengths.cumsum() - lengths).repeat(lengths)
        return to_device(sequence, query.device), to_device(position, query.device)

    mask = None
    if keys.min() != keys.max():
        real = np.arange(keys.max()) < keys[:, None]
        mask = to_device(real, query.device)[:, None, None, :]
    mixed = F.scaled_dot_product_attention(
        pad(query, queries), pad(key, keys), pad(value, keys), mask, dropout_rate
    )
    grid = mixed.transpose(1, 2).flatten(2)
    return grid.flatten(0, 1) if queries.min() == queries.max() else grid[places(queries)]


def _by_head(rows: Tensor, sequences: int, heads: int) -> Tensor:
    """(sequences * tokens, hidden) as (sequences * heads, tokens, head size)."""
    grid = rows.view(sequences, -1, heads, rows.shape[1] // heads)
    return grid.transpose(1, 2).reshape(sequences * heads, grid.shape[1], -1)


def _by_row(grid: Tensor, sequences: int, heads: int) -> Tensor:
    """The inverse of `_by_head`."""
    split = grid.view(sequences, heads, grid.shape[1], -1).transpose(1, 2)
    return split.reshape(sequences * grid.shape[1], -1)


class _Attention(torch.autograd.Function):
    """Attention a few sequences at a time; keeps the weights for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        heads: int,
        rate: float,
    ) -> Tensor:
        mixed = torch.empty_like(query)
        at_least_fp32 = torch.promote_types(query.dtype, torch.float32)
        scale = (query.shape[1] // heads) ** -0.5
        saved: list[Tensor] = []
        for sequences, rows, columns in layout.groups(heads):
            q, k, v = (
                _by_head(query[rows], sequences, heads),
                _by_head(key[columns], sequences, heads),
                _by_head(value[columns], sequences, heads),
            )
            scores = torch.bmm(q, k.transpose(1, 2)).to(at_least_fp32).mul_(scale)
            weights = torch.softmax(scores, dim=-1).to(query.dtype)
            saved.append(weights)
            if rate:
                keep = _keep(weights.shape, rate)
                saved.append(keep)
                weights = torch.where(keep, weights, 0.0)
            mixed[rows] = _by_row(torch.bmm(weights, v), sequences, heads)
        ctx.save_for_backward(query, key, value, *saved)
        ctx.layout, ctx.heads, ctx.rate, ctx.scale = layout, heads, rate, scale
        return mixed.mul_(1.0 / (1.0 - rate)) if rate else mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        heads, remaining = ctx.heads, iter(saved)
        if ctx.rate:
            gradient = gradient * (1.0 / (1.0 - ctx.rate))
        d_query = torch.empty_like(query)
        # Zeros, since a sequence without queries is in no group.
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        for sequences, rows, columns in ctx.layout.groups(heads):
            q, k, v, g = (
                _by_head(query[rows], sequences, heads),
                _by_head(key[columns], sequences, heads),
                _by_head(value[columns], sequences, heads),
                _by_head(gradient[rows], sequences, heads),
            )
            weights = kept = next(remaining)
            d_weights = torch.bmm(g, v.transpose(1, 2))
            if ctx.rate:
                keep = next(remaining)
                kept = torch.where(keep, weights, 0.0)
                d_weights = torch.where(keep, d_weights, 0.0)
            d_value[columns] = _by_row(torch.bmm(kept.transpose(1, 2), g), sequences, heads)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scores.mul_(ctx.scale)
            d_query[rows] = _by_row(torch.bmm(d_scores, k), sequences, heads)
            d_key[columns] = _by_row(torch.bmm(d_scores.transpose(1, 2), q), sequences, heads)
        return d_query, d_key, d_value, None, None, None
