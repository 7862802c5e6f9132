"""The held-out masked-language-model loss, the same for every model that reads the same text.

Masks are uniform and fixed: they depend only on the position of a sequence in the split, so
teachers and students are evaluated on exactly the same predictions.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kdcore.data.batching import Batch
from kdcore.data.dataset import HeldOut
from kdcore.data.masking import IGNORED, mask_uniform
from kdcore.device import ResolvedPrecision
from kdcore.distributed.process_group import SINGLE_PROCESS, Ranks
from kdcore.loss.fused import LossWeights, fused_loss
from kdcore.model.bert import MaskedLM
from kdcore.model.encoder import Rows, last_hidden, projection
from kdcore.rng import rng

_MASK_SEED = 20_191_108
_CHUNK = 32
"""Sequences masked together; fixed, so that the masks do not depend on a batch size."""
_TOKENS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class EvalResult:
    """Mean loss in nats per masked token."""

    loss: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


class StopRequested(Exception):
    """The evaluation was left early, since the run is to stop."""


@torch.no_grad()
def heldout_loss(
    model: MaskedLM,
    held_out: HeldOut,
    precision: ResolvedPrecision,
    on_progress: Callable[[int], None] = lambda done: None,
    ranks: Ranks = SINGLE_PROCESS,
    should_stop: Callable[[], bool] = lambda: False,
) -> EvalResult:
    """The mean loss over all masked positions of the split; no layer is dropped.

    `on_progress` gets the number of sequences done so far. The work is shared among the ranks.
    Raises StopRequested as soon as `should_stop` is true on any of them.
    """
    was_training = model.training
    model.eval()
    device, tokenizer = model.device, held_out.tokenizer
    total, count = 0.0, 0
    turns = itertools.count()
    try:
        for start in range(0, len(held_out), _CHUNK):
            if ranks.any_rank(should_stop()):
                raise StopRequested
            rows = np.arange(start, min(start + _CHUNK, len(held_out)))
            ids, labels = mask_uniform(
                held_out.packed[rows].astype(np.int64),
                special_ids=tokenizer.special_ids,
                mask_id=tokenizer.mask_id,
                vocab_size=tokenizer.vocab_size,
                rate=held_out.mask_rate,
                rng=rng(_MASK_SEED, "heldout", start),
            )
            whole = Batch(ids, np.ones_like(ids), labels)
            for part in whole.microbatches(_TOKENS_AT_ONCE):
                if not ranks.is_mine(next(turns)):
                    continue
                flat_ids, flat_labels = part.flat()
                wanted = np.flatnonzero(flat_labels != IGNORED)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    sequences = Rows.of(flat_ids, part.lengths, device)
                    student = projection(model, last_hidden(model, sequences, wanted=wanted))
                    _, sums = fused_loss(student, None, flat_labels[wanted], LossWeights(mlm=1.0))
                total += sums["mlm"].item()
            count += whole.labelled
            on_progress(len(rows) + start)
    finally:
        model.train(was_training)
    total = ranks.sum(torch.tensor(total, dtype=torch.float64)).item()
    return EvalResult(total / max(1, count))
