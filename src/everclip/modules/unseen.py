"""Scores of classes that a closed-form classifier has no pictures of."""

from __future__ import annotations

import torch
from torch import Tensor


def as_preferred(scores: Tensor, logits: Tensor, known: Tensor) -> Tensor:
    """Scores (B, C) in which every unknown class has the score of the known class that the logits prefer.

    Added to the logits, they leave it to these to decide between the two.

    Args:
        scores: (B, C), meaningless for unknown classes.
        logits: (B, C) of zero-shot CLIP.
        known: (C,), at least one.
    """
    if known.all():
        return scores
    best = logits.masked_fill(~known, -torch.inf).argmax(dim=1, keepdim=True)
    return torch.where(known, scores, scores.gather(1, best))
