"""Pure tensor functions of the recipe's loss terms; each is a mean over positions.

T is the temperature. Formulas: Hinton et al. 2015 (arXiv:1503.02531) for the soft targets, and the
`distiller.py` of DistilBERT (Sanh et al. 2019, arXiv:1910.01108) for their reductions.
"""

import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

from kdcore.loss.fused import cosine_distance


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (positions, vocab) logits against (positions,) token ids, in nats.

    Without any position the loss is 0, not NaN: there is nothing to learn from an empty mask.
    """
    if labels.numel() == 0:
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), labels)


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher_T || student_T), summed over the vocabulary, mean over positions.

    Both logits: (positions, vocab). T^2 keeps soft-target gradients on the scale of the hard loss.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence / max(1, student_logits.shape[0]) * temperature**2


def cosine_loss(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """1 - cosine of (positions, hidden) pairs, mean over positions."""
    return cosine_distance(student_hidden, teacher_hidden).sum() / max(1, student_hidden.shape[0])


def mse_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared error of the logits, summed over the vocabulary, mean over positions."""
    squared = F.mse_loss(student_logits.float(), teacher_logits.float(), reduction="sum")
    return squared / max(1, student_logits.shape[0])
