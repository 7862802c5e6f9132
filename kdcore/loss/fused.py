"""The loss terms that need logits, with closed-form gradients; `reference` is the plain version.

Logits are computed in chunks of positions and turned in place into the gradient of the weighted sum
of the terms, from which the gradients of the hidden states and of `lm_head` follow directly. So no
tensor of vocabulary width outlives its chunk, and no logit is computed twice.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

from kdcore.data.masking import IGNORED
from kdcore.device import to_device
from kdcore.grad import own_gradient
from kdcore.model.encoder import Projection

LOGITS_AT_ONCE = 1 << 24
"""Logits of one chunk on a CPU: 64 MiB in fp32, of student and teacher each."""
_GPU_FACTOR = 8
"""GPUs need larger products to be fast, and have the memory for them."""
_CACHED_ROWS = 1024
"""Vocabulary entries of a chunk that a CPU works on at a time, to stay within its cache."""


@dataclass(frozen=True)
class LossWeights:
    """How the terms are weighted; each weight is already divided by the positions that count."""

    mlm: float = 0.0
    """Of the cross-entropy, in nats, summed over labelled positions."""
    ce: float = 0.0
    """Of T^2 * KL(teacher_T || student_T), summed over all positions (Hinton et al. 2015)."""
    mse: float = 0.0
    """Of the logits' squared error, summed over all positions and the vocabulary."""
    temperature: float = 1.0


def fused_loss(
    student: Projection,
    teacher: Projection | None,
    labels: npt.NDArray[np.int64],
    mix: LossWeights,
    in_place: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, with gradients for `student`, and the sum of each weighted term without.

    `labels`: (positions,) ids on the host, -100 where none is to be predicted; they alone count for
    `mlm`, all positions for `ce` and `mse`, which need the teacher. Under autocast the matrix
    products are in its type, all else in fp32.

    `in_place` adds the gradients of `lm_head`'s weight and bias to their `.grad` at once, as
    `total.backward()` would, to which only the hidden states' are then left: that spares a tensor
    as large as `lm_head` and three passes over it.
    """
    weight, bias = student.weight, student.bias
    into = None
    if in_place and torch.is_grad_enabled():
        into = (own_gradient(weight), own_gradient(bias))
        weight, bias = weight.detach(), bias.detach()
    total, sums = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        student.hidden, weight, bias, teacher, labels, mix, into
    )
    names = [name for name in ("mlm", "ce", "mse") if getattr(mix, name) > 0]
    return total, {name: sums[("mlm", "ce", "mse").index(name)] for name in names}


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        teacher: Projection | None,
        labels: npt.NDArray[np.int64],
        mix: LossWeights,
        into: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        with torch.autocast(kind, enabled=False):
            work = _FusedLossState(Projection(hidden, weight, bias), teacher, mix, dtype)
            if any(ctx.needs_input_grad):
                work.want_gradients(into)
            work.add_all(labels)
        ctx.gradients = work.gradients
        weights = to_device(np.array([mix.mlm, mix.ce, mix.mse]), hidden.device)
        total = (work.sums * weights).sum().to(work.precise)
        ctx.mark_non_differentiable(work.sums)
        return total, work.sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.gradients, ctx.needs_input_grad[:3], strict=True)
        return (
            *(each * gradient.to(each.dtype) if needed else None for each, needed in wanted),
            *(None, None, None, None),
        )


class _FusedLossState:
    """The sums and gradients of the chunks so far.

    Logits are (vocab, positions): a product with the vocabulary in front runs half as fast again
    as one with it behind, whose rows are no multiple of a cache line apart.
    """

    def __init__(
        self,
        student: Projection,
        teacher: Projection | None,
        mix: LossWeights,
        dtype: torch.dtype,
    ) -> None:
        self._student, self._teacher, self._mix = student, teacher, mix
        self._soft = mix.ce > 0 or mix.mse > 0
        self._weight = student.weight.detach().to(dtype)
        self._teacher_weight = teacher.weight.to(dtype) if teacher and self._soft else None
        self.precise = torch.promote_types(student.weight.dtype, torch.float32)
        device = student.hidden.device
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.gradients: tuple[Tensor, Tensor, Tensor] | None = None
        vocab, cpu = len(self._weight), device.type == "cpu"
        self._rows = _CACHED_ROWS if cpu else vocab
        size = max(1, LOGITS_AT_ONCE * (1 if cpu else _GPU_FACTOR) // vocab)
        self._size = size // 64 * 64 or size

    def want_gradients(self, into: tuple[Tensor, Tensor] | None) -> None:
        """Compute gradients from now on; those of `lm_head` are added to `into`, if given."""
        hidden, *lm_head = vars(self._student).values()
        d_weight, d_bias = into or (torch.zeros_like(each) for each in lm_head)
        self.gradients = (torch.empty_like(hidden), d_weight, d_bias)

    def add_all(self, labels: npt.NDArray[np.int64]) -> None:
        """Add all positions, a chunk at a time."""
        for start in range(0, len(labels), self._size):
            chunk = slice(start, min(start + self._size, len(labels)))
            self._add(chunk, labels[chunk])

    def _add(self, chunk: slice, labels: npt.NDArray[np.int64]) -> None:
        """Add the chunk's sums and, if they are wanted, its gradients."""
        device = self._student.hidden.device
        hidden = self._student.hidden[chunk].detach().to(self._weight.dtype)
        at = np.flatnonzero(labels != IGNORED)
        where, ids = to_device(at, device), to_device(labels[at], device)
        temperature = self._mix.temperature if self._soft else 1.0
        logits = self._logits(hidden, self._weight, self._student.bias, temperature)
        if self._soft:
            labelled = None
            if self._mix.mlm and len(at):
                labelled = logits[:, where].mul_(temperature)
            self._distillation_(logits, chunk)
            if labelled is not None:
                # No position occurs twice, so the order of additions cannot matter.
                logits.index_add_(1, where, self._cross_entropy_(labelled, ids))
        else:
            whole = len(at) == logits.shape[1]
            logits = self._cross_entropy_(logits if whole else logits[:, where], ids)
            if not whole:
                every = logits.new_zeros(len(logits), len(labels))
                logits = every.index_copy_(1, where, logits)
        if self.gradients is not None:
            d_hidden, d_weight, d_bias = self.gradients
            gradient = logits.to(self._weight.dtype)
            d_hidden[chunk] = gradient.t() @ self._weight
            if d_weight.dtype == gradient.dtype:
                d_weight.addmm_(gradient, hidden)
            else:
                d_weight += gradient @ hidden
            d_bias += logits.sum(1).to(d_bias.dtype)

    def _logits(self, hidden: Tensor, weight: Tensor, bias: Tensor, temperature: float) -> Tensor:
        """Logits (vocab, positions) over the temperature; the short factors are divided by it."""
        # Blocks of one size, however long the chunk, so that freed ones fit the next.
        block = torch.empty(len(weight) * self._size, dtype=weight.dtype, device=weight.device)
        logits = block[: len(weight) * len(hidden)].view(len(weight), len(hidden))
        logits = torch.mm(weight, (hidden / temperature).t(), out=logits).to(self.precise)
        return logits.add_((bias.detach().to(self.precise) / temperature)[:, None])

    def _cross_entropy_(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Adds the cross-entropy's sum; the logits become its weighted gradient."""
        each = torch.arange(len(ids), device=ids.device)
        peak = logits.amax(0)
        truth = logits[ids, each] - peak
        logits.sub_(peak).exp_()
        total = logits.sum(0)
        self.sums[0] += (total.log() - truth).sum()
        logits.mul_(self._mix.mlm / total)
        logits[ids, each] -= self._mix.mlm
        return logits

    def _distillation_(self, student: Tensor, chunk: slice) -> None:
        """Adds the sums of the terms against the teacher's logits.

        The student's logits, over the temperature, become the terms' weighted gradient.
        """
        assert self._teacher is not None
        assert self._teacher_weight is not None
        mix = self._mix
        teacher = self._logits(
            self._teacher.hidden[chunk].to(self._teacher_weight.dtype),
            self._teacher_weight,
            self._teacher.bias,
            mix.temperature,
        )
        difference = (student - teacher).mul_(mix.temperature) if mix.mse else None
        if difference is not None:
            self.sums[2] += difference.square().sum(0).double().sum()
        if mix.ce:
            self._divergence(student, teacher)
        else:
            student.zero_()
        if difference is not None:
            student.add_(difference, alpha=2.0 * mix.mse)

    def _divergence(self, student: Tensor, teacher: Tensor) -> None:
        """Adds the KL divergence's sum; the student's logits become its weighted gradient.

        Both are over the temperature. Works on some vocabulary entries at a time, which then stay
        in the cache.
        """
        temperature, both = self._mix.temperature, (student, teacher)
        parts = [slice(i, i + self._rows) for i in range(0, len(student), self._rows)]
        peaks = [torch.stack([x[part].amax(0) for part in parts]).amax(0) for x in both]
        totals = torch.zeros(3, student.shape[1], dtype=torch.float64, device=student.device)
        for part in parts:
            ours, theirs = (x[part].sub_(peak) for x, peak in zip(both, peaks, strict=True))
            difference = theirs - ours
            # A product with ones sums ten times as fast as `sum` over the first dimension.
            ones = torch.ones(1, len(ours), dtype=ours.dtype, device=ours.device)
            totals[0] += (ones @ ours.exp_())[0]
            totals[1] += (ones @ theirs.exp_())[0]
            totals[2] += (ones @ difference.mul_(theirs))[0]
        student_total, teacher_total, cross = totals
        divergence = cross / teacher_total - teacher_total.log() + student_total.log()
        # T^2 keeps soft-target gradients on the scale of the hard loss.
        self.sums[1] += divergence.sum() * temperature**2
        factor = self._mix.ce * temperature
        ours_factor, theirs_factor = (
            (factor / total).to(student.dtype) for total in (student_total, -teacher_total)
        )
        for part in parts:
            student[part].mul_(ours_factor).addcmul_(teacher[part], theirs_factor)


def cosine_distance(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """1 - cosine of (positions, hidden) pairs, as (positions,)."""
    return 1.0 - F.cosine_similarity(student_hidden.float(), teacher_hidden.float(), dim=-1)
