"""From text to a loss: masked language modelling, and distillation.

An objective defines its batches, its loss terms and their weights; `kdcore.train.loop` knows
nothing else about them. Every batch is a function of (config, seed, epoch, index).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcore.config import DistillConfig, TeacherConfig
from kdcore.data.batching import (
    Batch,
    Ids,
    Lines,
    Packed,
    epoch_order,
    length_grouped_batches,
    pad_lines,
)
from kdcore.data.masking import IGNORED, mask_smoothed, mask_uniform
from kdcore.data.tokenizers import TokenizerInfo
from kdcore.device import to_device
from kdcore.loss.fused import LossWeights, cosine_distance, fused_loss
from kdcore.model.bert import MaskedLM
from kdcore.model.encoder import Rows, last_hidden, projection
from kdcore.model.layerdrop import layers_active
from kdcore.rng import rng


@dataclass(frozen=True)
class Losses:
    """Of a part of a batch: its share of the batch's means, so that the parts add up to them."""

    total: Tensor
    """The weighted sum that is minimised."""
    terms: dict[str, Tensor]
    """Each term by name, unweighted and without a graph."""
    extra_metrics: dict[str, float] = field(default_factory=dict)
    """Further numbers to plot beside the losses."""


class Objective(ABC):
    """What the training loop needs of an objective."""

    batches_per_epoch: int
    terms: tuple[str, ...]
    """Names of the loss terms, in order."""

    @abstractmethod
    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`; touches no device and may be called from another thread."""

    @abstractmethod
    def losses(self, part: Batch, whole: Batch, step: int, share: float = 1.0) -> Losses:
        """The losses of a part of the batch `whole`, in `step`, times `share`.

        The caller must call `total.backward()` with a gradient of 1: the gradient of the output
        projection is added to its `.grad` here already, all others are added then.
        """


class MlmObjective(Objective):
    """Masked language modelling (Devlin et al. 2019) on packed sequences, under LayerDrop."""

    terms = ("mlm",)

    def __init__(
        self, config: TeacherConfig, model: MaskedLM, tokenizer: TokenizerInfo, packed: Packed
    ) -> None:
        self.batches_per_epoch = -(-len(packed) // config.schedule.batch_size)
        self._config, self._model, self._tokens, self._packed = config, model, tokenizer, packed
        self._order: Callable[[int], Ids] = lru_cache(maxsize=2)(
            lambda epoch: epoch_order(len(packed), config.seed, epoch)
        )

    def batch(self, epoch: int, index: int) -> Batch:
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
        return Batch(ids, np.ones_like(ids), labels)

    def losses(self, part: Batch, whole: Batch, step: int, share: float = 1.0) -> Losses:
        ids, labels = part.flat()
        rows = Rows.of(ids, part.lengths, self._model.device)
        layers, layer_drop = self._model.config.num_hidden_layers, self._config.layer_drop
        active = layers_active(layers, layer_drop, self._config.seed, step)
        # Only masked positions have a label, so only they go through the last layer and the head.
        wanted = np.flatnonzero(labels != IGNORED)
        hidden = last_hidden(self._model, rows, active, wanted, in_place=True)
        mix = LossWeights(mlm=share / max(1, whole.labelled))
        total, sums = fused_loss(
            projection(self._model, hidden), None, labels[wanted], mix, in_place=True
        )
        extra_metrics = {"layers_active": float(len(active))} if layer_drop else {}
        return Losses(total, {"mlm": sums["mlm"] * mix.mlm}, extra_metrics)


class DistillObjective(Objective):
    """DistilBERT's triple loss (Sanh et al. 2019) plus an optional MSE of the logits."""

    def __init__(
        self,
        config: DistillConfig,
        student: MaskedLM,
        teacher: MaskedLM,
        tokenizer: TokenizerInfo,
        lines: Lines,
        counts: npt.NDArray[np.int64],
    ) -> None:
        self._config, self._student, self._teacher = config, student, teacher
        self._tokens, self._lines, self._counts = tokenizer, lines, counts
        self._grouped: Callable[[int], list[Ids]] = lru_cache(maxsize=2)(
            lambda epoch: length_grouped_batches(
                lines.lengths, config.schedule.batch_size, config.seed, epoch
            )
        )
        self.batches_per_epoch = len(self._grouped(0))
        alphas = config.loss
        weights = {
            "cos": alphas.alpha_cos,
            "mlm": alphas.alpha_mlm,
            "ce": alphas.alpha_ce,
            "mse": alphas.alpha_mse,
        }
        self.terms = tuple(name for name, weight in weights.items() if weight)

    def batch(self, epoch: int, index: int) -> Batch:
        rows = self._grouped(epoch)[index]
        ids, attention_mask = pad_lines(
            [self._lines.get(int(row)) for row in rows], self._tokens.pad_id
        )
        masked, labels = mask_smoothed(
            ids,
            attention_mask,
            counts=self._counts,
            smoothing=self._config.masking.smoothing,
            rate=self._config.masking.mask_rate,
            special_ids=self._tokens.special_ids,
            mask_id=self._tokens.mask_id,
            vocab_size=self._tokens.vocab_size,
            rng=rng(self._config.seed, "mask", epoch, index),
        )
        return Batch(masked, attention_mask, labels)

    def losses(self, part: Batch, whole: Batch, step: int, share: float = 1.0) -> Losses:
        loss = self._config.loss
        ids, labels = part.flat()
        rows = Rows.of(ids, part.lengths, self._student.device)
        soft = bool(loss.alpha_ce or loss.alpha_mse)
        labelled = max(1, whole.labelled)
        looked_at = labelled if loss.positions == "masked" else whole.num_tokens
        only_labelled = loss.positions == "masked" or not (soft or loss.alpha_cos)
        wanted = np.flatnonzero(labels != IGNORED) if only_labelled else None
        teacher_hidden = None
        if soft or loss.alpha_cos:
            with torch.no_grad():
                teacher_hidden = last_hidden(self._teacher, rows, wanted=wanted)
        student_hidden = last_hidden(self._student, rows, wanted=wanted, in_place=True)
        labels = labels if wanted is None else labels[wanted]
        total = torch.zeros((), device=student_hidden.device)
        terms: dict[str, Tensor] = {}
        if teacher_hidden is not None and loss.alpha_cos:
            distances = cosine_distance(student_hidden, teacher_hidden)
            distance = distances.sum() * (share / looked_at)
            total = total + loss.alpha_cos * distance
            terms["cos"] = distance.detach().double()
        if soft or loss.alpha_mlm:
            if not soft and wanted is None:
                at = np.flatnonzero(labels != IGNORED)
                student_hidden, labels = student_hidden[to_device(at, rows.ids.device)], labels[at]
            mix = LossWeights(
                mlm=share * loss.alpha_mlm / labelled,
                ce=share * loss.alpha_ce / looked_at,
                mse=share * loss.alpha_mse / looked_at,
                temperature=loss.temperature,
            )
            teacher = None
            if teacher_hidden is not None and soft:
                with torch.no_grad():
                    teacher = projection(self._teacher, teacher_hidden)
            fused, sums = fused_loss(
                projection(self._student, student_hidden),
                teacher,
                labels,
                mix,
                in_place=True,
            )
            total = total + fused
            counts = {"mlm": labelled, "ce": looked_at, "mse": looked_at}
            terms |= {name: value * (share / counts[name]) for name, value in sums.items()}
        return Losses(total, terms)
