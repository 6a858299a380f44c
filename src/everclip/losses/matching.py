"""Pictures and texts that find each other, and the similarities by which they do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.losses.similarity import similarity


def matching(logits: Tensor, own: Tensor) -> Tensor:
    """The mean (scalar) of two losses: each picture finds its text, and each text of a picture one of its pictures.

    CLIP's loss where every text has one picture.

    Args:
        logits: (B, M) of pictures and texts.
        own: (B,) the text of each picture.

    Source: arXiv 2103.00020, figure 3.
    """
    right = own[:, None] == torch.arange(logits.shape[1], device=own.device)
    shown = right.any(dim=0)
    found = logits.log_softmax(dim=0)[:, shown].masked_fill(~right[:, shown], -torch.inf).logsumexp(dim=0)
    return (F.cross_entropy(logits, own) - found.mean()) / 2


def class_matching(logits: Tensor, labels: Tensor, sharpness: float = 10.0) -> Tensor:
    """Divergence (scalar) of both directions' distributions from ones spread over what is of the same class, averaged.

    Args:
        logits: (B, B) of pictures and of the texts of their own classes, in the same order.
        labels: (B,) classes; texts of one class may occur several times.
        sharpness: logit of what is of the same class in the target; all else has 0.

    Source: arXiv 2109.08472 (ActionCLIP) equation 4; `KLLoss` of sallymmx/m2clip @ 3c8c661, utils.py, whose mean over
    all values times B is the mean over rows here.
    """
    target = (sharpness * (labels[:, None] == labels).to(logits.dtype)).softmax(dim=1)
    both = [F.kl_div(rows.log_softmax(dim=1), target, reduction="batchmean") for rows in (logits, logits.T)]
    return torch.stack(both).mean()


def alignment(student: Tensor, teacher: Tensor, own: Tensor) -> Tensor:
    """Divergence (scalar) of the student's distributions from the teacher's, summed over rows, mean of both directions.

    A row counts only where the teacher is right: its highest similarity is that of a picture and its own text.

    Args:
        student: similarities (B, M) of pictures and texts.
        teacher: the same by another model, without gradient.
        own: (B,) the text of each picture.

    Source: arXiv 2305.07437; `cognition_align` of ZixuanNi/Mod-X @ a6a2f6c, ModX_Training/continue_train_model.py.
    """
    by_picture = teacher.argmax(dim=1) == own
    by_text = own[teacher.argmax(dim=0)] == torch.arange(teacher.shape[1], device=own.device)
    total = student.new_zeros(())
    for new, old, right in ((student, teacher, by_picture), (student.T, teacher.T, by_text)):
        rows = F.kl_div(new.log_softmax(dim=1), old.log_softmax(dim=1), reduction="none", log_target=True).sum(dim=1)
        total = total + (rows * right).sum()
    return total / 2


def consolidation(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """Each row of one model finds its row of the other among all (scalar, the mean of both directions).

    Args:
        new: features (N, E) of any length.
        old: the same by another model, without gradient.
        temperature: that cosine similarities are divided by.

    Source: C-CLIP (ICLR 2025, openreview sb7qHFYwBc) equation 5, which adds both directions up.
    """
    logits = similarity(F.normalize(new, dim=1), F.normalize(old, dim=1)) / temperature
    return matching(logits, torch.arange(len(logits), device=logits.device))
