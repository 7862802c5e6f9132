"""From text to named loss terms: masked language modelling, and distillation.

An objective knows its batches and its terms; the loop in `kdcore.loop` mixes the terms by one
weighted sum and knows nothing else of them. Every batch is a function of (config, seed, step).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kdcore import losses
from kdcore.batches import (
    Lines,
    Packed,
    epoch_order,
    length_grouped_batches,
    mask_smoothed,
    mask_uniform,
    pad_lines,
    rng,
)
from kdcore.config import DistillConfig, TeacherConfig
from kdcore.layerdrop import layers_active, only_layers
from kdcore.models import MaskedLM, head, last_hidden
from kdcore.tokenizers import Tokens

Terms = dict[str, Tensor]
"""Named scalar losses; each is a mean over the positions that it looks at."""

LOGITS_AT_ONCE = 1 << 26
"""Logits of more than this many elements are computed, and computed again for the gradient, in
chunks of this size: memory then grows with the chunk and not with the batch."""


class Objective(ABC):
    """What the loop needs of a training goal."""

    weights: dict[str, float]
    """The weighted sum that is minimised, by name of the term."""
    batches_per_epoch: int

    @abstractmethod
    def terms(self, epoch: int, index: int, step: int) -> tuple[Terms, int]:
        """The terms of batch `index` of `epoch`, and its number of non-padding tokens."""

    def for_update(self, step: int) -> AbstractContextManager[None]:
        """Holds for all batches of one update."""
        return nullcontext()

    def facts(self, step: int) -> dict[str, float]:
        """Further numbers to plot beside the losses."""
        return {}


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


class MlmObjective(Objective):
    """Masked language modelling (Devlin et al. 2019) on packed sequences, under LayerDrop."""

    def __init__(
        self, config: TeacherConfig, model: MaskedLM, tokens: Tokens, packed: Packed
    ) -> None:
        self.weights = {"mlm": 1.0}
        self.batches_per_epoch = -(-len(packed) // config.schedule.batch_size)
        self._config, self._model, self._tokens, self._packed = config, model, tokens, packed
        self._order: Callable[[int], np.ndarray] = lru_cache(maxsize=2)(
            lambda epoch: epoch_order(len(packed), config.seed, epoch)
        )

    def _active(self, step: int) -> list[int]:
        layers = self._model.config.num_hidden_layers
        return layers_active(layers, self._config.layer_drop, self._config.seed, step)

    def for_update(self, step: int) -> AbstractContextManager[None]:
        return only_layers(self._model, self._active(step))

    def facts(self, step: int) -> dict[str, float]:
        return {"layers_active": float(len(self._active(step)))} if self._config.layer_drop else {}

    def terms(self, epoch: int, index: int, step: int) -> tuple[Terms, int]:
        size = self._config.schedule.batch_size
        rows = self._order(epoch)[index * size : (index + 1) * size]
        ids, labels = mask_uniform(
            self._packed[rows].astype(np.int64),
            special_ids=self._tokens.special_ids,
            mask_id=self._tokens.mask_id,
            vocab_size=self._tokens.vocab_size,
            rate=self._config.mask_rate,
            rng=rng(self._config.seed, "mask", epoch, index),
        )
        device = self._model.device
        # Found on the host: the device need not be asked how many positions there are.
        positions = _to(device, np.flatnonzero(labels != -100))
        targets = _to(device, labels[labels != -100])
        hidden = last_hidden(self._model, _to(device, ids), None)
        # Only masked positions have a label, so only they go through the head.
        logits = head(self._model, hidden.flatten(0, 1)[positions])
        return {"mlm": losses.mlm_loss(logits, targets)}, ids.size


class DistilObjective(Objective):
    """DistilBERT's triple loss (Sanh et al. 2019) plus an optional MSE of the logits."""

    def __init__(
        self,
        config: DistillConfig,
        student: MaskedLM,
        teacher: MaskedLM,
        tokens: Tokens,
        lines: Lines,
        counts: np.ndarray,
    ) -> None:
        loss = config.loss
        weights = {
            "ce": loss.alpha_ce,
            "mlm": loss.alpha_mlm,
            "cos": loss.alpha_cos,
            "mse": loss.alpha_mse,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self._config, self._student, self._teacher = config, student, teacher
        self._tokens, self._lines, self._counts = tokens, lines, counts
        self._grouped: Callable[[int], list[np.ndarray]] = lru_cache(maxsize=2)(
            lambda epoch: length_grouped_batches(
                lines.lengths, config.schedule.batch_size, config.seed, epoch
            )
        )
        self.batches_per_epoch = len(self._grouped(0))

    def terms(self, epoch: int, index: int, step: int) -> tuple[Terms, int]:
        rows = self._grouped(epoch)[index]
        ids, attention = pad_lines([self._lines.get(int(row)) for row in rows], self._tokens.pad_id)
        masked, labels = mask_smoothed(
            ids,
            attention,
            counts=self._counts,
            smoothing=self._config.masking.smoothing,
            rate=self._config.masking.mask_rate,
            special_ids=self._tokens.special_ids,
            mask_id=self._tokens.mask_id,
            vocab_size=self._tokens.vocab_size,
            rng=rng(self._config.seed, "mask", epoch, index),
        )
        device = self._student.device
        padding_free = bool(attention.all())
        inputs = _to(device, masked)
        mask = None if padding_free else _to(device, attention)
        with torch.no_grad():
            teacher_hidden = last_hidden(self._teacher, inputs, mask).flatten(0, 1)
        student_hidden = last_hidden(self._student, inputs, mask).flatten(0, 1)
        labelled = labels.ravel() != -100
        soft = labelled if self._config.loss.positions == "masked" else attention.ravel() != 0
        terms: Terms = {}
        if "cos" in self.weights:
            where = _to(device, np.flatnonzero(soft))
            terms["cos"] = losses.cosine_loss(student_hidden[where], teacher_hidden[where])
        terms |= self._logit_terms(student_hidden, teacher_hidden, labels.ravel(), soft)
        return terms, int(attention.sum())

    def _logit_terms(
        self, student_hidden: Tensor, teacher_hidden: Tensor, labels: np.ndarray, soft: np.ndarray
    ) -> Terms:
        """The terms that need logits, by chunks of positions if they are many.

        Hidden states: (batch * tokens, hidden). Sums over positions are taken by chunk and divided
        by the number of all positions at the end, so the chunk size changes rounding only.
        """
        needed = soft | (labels != -100) if "mlm" in self.weights else soft
        if not {"ce", "mse"} & self.weights.keys():
            needed = labels != -100
        positions = np.flatnonzero(needed)
        soft_count, label_count = int(soft.sum()), int((labels != -100).sum())
        at_once = max(1, LOGITS_AT_ONCE // self._tokens.vocab_size)
        chunks = np.array_split(positions, max(1, -(-len(positions) // at_once)))
        device = student_hidden.device
        totals: Terms = {}
        for chunk in chunks:
            where = _to(device, chunk)
            picked = (
                _to(device, np.flatnonzero(soft[chunk])),
                _to(device, np.flatnonzero(labels[chunk] != -100)),
                _to(device, labels[chunk][labels[chunk] != -100]),
            )
            arguments = (student_hidden[where], teacher_hidden[where], *picked)
            sums = (
                self._chunk_sums(*arguments)
                if len(chunks) == 1
                else cast(
                    Terms,
                    checkpoint(
                        self._chunk_sums,
                        *arguments,
                        use_reentrant=False,
                        preserve_rng_state=False,  # the head has no dropout
                    ),
                )
            )
            totals = {name: totals.get(name, 0.0) + value for name, value in sums.items()}
        counts = {"mlm": label_count, "ce": soft_count, "mse": soft_count}
        return {name: total / max(1, counts[name]) for name, total in totals.items()}

    def _chunk_sums(
        self,
        student_hidden: Tensor,
        teacher_hidden: Tensor,
        soft: Tensor,
        labelled: Tensor,
        labels: Tensor,
    ) -> Terms:
        """Sums over the positions of one chunk of each term that needs logits."""
        sums: Terms = {}
        student_logits = head(self._student, student_hidden)
        if {"ce", "mse"} & self.weights.keys():
            with torch.no_grad():
                teacher_logits = head(self._teacher, teacher_hidden)
            # The usual case needs no copy: all positions of the chunk are looked at.
            whole = len(soft) == len(student_logits)
            ours = student_logits if whole else student_logits[soft]
            theirs = teacher_logits if whole else teacher_logits[soft]
            if "ce" in self.weights:
                mean = losses.soft_target_loss(ours, theirs, self._config.loss.temperature)
                sums["ce"] = mean * len(soft)
            if "mse" in self.weights:
                sums["mse"] = losses.mse_loss(ours, theirs) * len(soft)
        if "mlm" in self.weights:
            sums["mlm"] = losses.mlm_loss(student_logits[labelled], labels) * len(labelled)
        return sums
