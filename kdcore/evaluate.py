"""The held-out masked-language-model loss, the same for every model that reads the same text.

Masks are uniform and fixed: they depend on the position of a sequence in the split and on nothing
of the run, so teachers and students are measured on the very same predictions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kdcore.batches import Packed, mask_uniform, rng
from kdcore.machine import ResolvedPrecision
from kdcore.models import MaskedLM, head, last_hidden
from kdcore.tokenizers import Tokens

_MASK_SEED = 20_191_108
_CHUNK = 32
"""Sequences masked together; fixed, so that the masks do not depend on a batch size."""
_LOGITS_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class HeldOut:
    """What to evaluate on."""

    packed: Packed
    tokens: Tokens
    mask_rate: float
    max_sequences: int | None

    def __len__(self) -> int:
        return min(len(self.packed), self.max_sequences or len(self.packed))


@dataclass(frozen=True)
class EvalResult:
    """Mean loss in nats per masked token."""

    loss: float
    masked_tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def heldout_loss(
    model: MaskedLM,
    held_out: HeldOut,
    precision: ResolvedPrecision,
    on_progress: Callable[[int], None] = lambda done: None,
) -> EvalResult:
    """The mean loss over all masked positions of the split; no layer is dropped.

    `on_progress` gets the number of sequences done so far.
    """
    was_training = model.training
    model.eval()
    device, tokens = model.device, held_out.tokens
    total, count = 0.0, 0
    try:
        for start in range(0, len(held_out), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(held_out)))
            ids, labels = mask_uniform(
                held_out.packed[rows].astype(np.int64),
                special_ids=tokens.special_ids,
                mask_id=tokens.mask_id,
                vocab_size=tokens.vocab_size,
                rate=held_out.mask_rate,
                rng=rng(_MASK_SEED, "heldout", start),
            )
            where = torch.from_numpy(np.flatnonzero(labels != -100)).to(device)
            targets = torch.from_numpy(labels[labels != -100]).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                hidden = last_hidden(model, torch.from_numpy(ids).to(device), None)
                hidden = hidden.flatten(0, 1)[where]
                at_once = max(1, _LOGITS_AT_ONCE // tokens.vocab_size)
                for part, target in zip(
                    torch.split(hidden, at_once), torch.split(targets, at_once), strict=True
                ):
                    logits = head(model, part).float()
                    total += torch.nn.functional.cross_entropy(
                        logits, target, reduction="sum"
                    ).item()
            count += len(targets)
            on_progress(len(rows) + start)
    finally:
        model.train(was_training)
    return EvalResult(total / max(1, count), count)
