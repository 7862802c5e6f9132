"""Runs BERT's and DistilBERT's encoders on packed sequences, only at the wanted positions.

The parameters are those of `transformers`' models, and so is the arithmetic. What is different:
tokens are packed back to back, so padding costs nothing; dropped layers are not run; and the last
layer's query, output projection and feed-forward part are computed at the wanted positions only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM

from kdcore.device import to_device
from kdcore.grad import own_gradient
from kdcore.model.attention import Layout, attention, dropout
from kdcore.model.bert import MaskedLM, backbone, encoder, head_transform, lm_head

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Sequences back to back: row r is a token of one of them."""

    ids: Tensor
    """(rows,) token ids."""
    places: Tensor
    """(rows,) position of each token in its own sequence."""
    lengths: tuple[int, ...]
    """Tokens of each sequence; their sum is the number of rows."""

    @classmethod
    def of(cls, ids: Indices, lengths: Indices, device: torch.device) -> "Rows":
        """From host arrays: (rows,) ids and (sequences,) lengths."""
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        places = np.arange(len(ids)) - starts
        return cls(to_device(ids, device), to_device(places, device), tuple(lengths.tolist()))


@dataclass(frozen=True)
class Projection:
    """Hidden states, and the `lm_head` that makes logits of them."""

    hidden: Tensor
    """(positions, hidden)"""
    weight: Tensor
    """(vocab, hidden)"""
    bias: Tensor
    """(vocab,)"""


def last_hidden(
    model: MaskedLM,
    rows: Rows,
    layers: Sequence[int] | None = None,
    wanted: Indices | None = None,
    in_place: bool = False,
) -> Tensor:
    """Last hidden states (wanted, hidden) of the rows in `wanted` (ascending), or of all rows.

    Only the encoder layers in `layers` are run, all of them by default. `in_place` lets going
    backward add the word embeddings' gradient to their `.grad` itself, row by row, rather than
    make a tensor as large as they are; a CPU gains from that.
    """
    rate = _Rates(model)
    hidden = _embed(model, rows, rate.hidden, in_place)
    every = cast(nn.ModuleList, encoder(model).layer)
    active = [every[index] for index in (range(len(every)) if layers is None else layers)]
    heads = model.config.num_attention_heads
    at = None if wanted is None else to_device(wanted, hidden.device)
    for number, module in enumerate(active):
        layer = _bert_layer(module) if rate.bert else _distilbert_layer(module)
        if at is None or number < len(active) - 1:
            layout = Layout(rows.lengths, rows.lengths)
            hidden = _run(layer, hidden, hidden, layout, heads, rate)
        else:
            assert wanted is not None
            ends = np.searchsorted(wanted, np.cumsum(rows.lengths))
            asked = tuple(np.diff(ends, prepend=0).tolist())
            hidden = _run(layer, hidden, hidden[at], Layout(rows.lengths, asked), heads, rate)
    return hidden if at is None or active else hidden[at]


def projection(model: MaskedLM, hidden: Tensor) -> Projection:
    """The MLM head on last hidden states (positions, hidden), up to the final matrix product."""
    last = lm_head(model)
    return Projection(head_transform(model, hidden), last.weight, last.bias)


class _Rates:
    """Dropout rates of a model as it is now: all 0 in evaluation."""

    def __init__(self, model: MaskedLM) -> None:
        self.bert = isinstance(model, BertForMaskedLM)
        config, on = model.config, model.training
        names = (
            ("hidden_dropout_prob", "attention_probs_dropout_prob")
            if self.bert
            else ("dropout", "attention_dropout")
        )
        self.hidden, self.weights = (getattr(config, name) if on else 0.0 for name in names)
        # DistilBERT has no dropout behind the attention's output projection.
        self.attention_out = self.hidden if self.bert else 0.0


class _LookUp(torch.autograd.Function):
    """Rows of an embedding table; the gradient is added to the table's `.grad`."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.into = own_gradient(table)
        return table[ids]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        (ids,) = ctx.saved_tensors
        ctx.into.index_add_(0, ids, gradient)
        return None, None


def _embed(model: MaskedLM, rows: Rows, rate: float, in_place: bool) -> Tensor:
    embeddings: Any = backbone(model).embeddings
    words: nn.Embedding = embeddings.word_embeddings
    if in_place and words.weight.requires_grad and rows.ids.device.type == "cpu":
        # There is no padding among the rows, whose gradient would have to be left out.
        hidden = cast(Tensor, _LookUp.apply(words.weight, rows.ids))  # type: ignore[no-untyped-call]
    else:
        hidden = words(rows.ids)
    if isinstance(model, BertForMaskedLM):
        hidden = hidden + embeddings.token_type_embeddings.weight[0]
    hidden = hidden + embeddings.position_embeddings(rows.places)
    return dropout(embeddings.LayerNorm(hidden), rate)


@dataclass(frozen=True)
class _Layer:
    """The parts of one encoder layer, by what they do."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear
    norm: nn.LayerNorm


def _bert_layer(module: Any) -> _Layer:
    own = module.attention.self
    return _Layer(
        query=own.query,
        key=own.key,
        value=own.value,
        out=module.attention.output.dense,
        attention_norm=module.attention.output.LayerNorm,
        up=module.intermediate.dense,
        activation=module.intermediate.intermediate_act_fn,
        down=module.output.dense,
        norm=module.output.LayerNorm,
    )


def _distilbert_layer(module: Any) -> _Layer:
    return _Layer(
        query=module.attention.q_lin,
        key=module.attention.k_lin,
        value=module.attention.v_lin,
        out=module.attention.out_lin,
        attention_norm=module.sa_layer_norm,
        up=module.ffn.lin1,
        activation=module.ffn.activation,
        down=module.ffn.lin2,
        norm=module.output_layer_norm,
    )


def _run(
    layer: _Layer, everywhere: Tensor, asking: Tensor, layout: Layout, heads: int, rate: _Rates
) -> Tensor:
    """One layer: keys and values of all rows (rows, hidden), outputs for `asking` ones."""
    mixed = attention(
        layer.query(asking),
        layer.key(everywhere),
        layer.value(everywhere),
        layout,
        heads,
        rate.weights,
    )
    hidden = layer.attention_norm(dropout(layer.out(mixed), rate.attention_out) + asking)
    inner = layer.activation(layer.up(hidden))
    return cast(Tensor, layer.norm(dropout(layer.down(inner), rate.hidden) + hidden))
