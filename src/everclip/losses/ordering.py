"""Losses of ordering pictures by a value.

Source: arXiv 2412.06760 (uynaes/RankingAwareCLIP @ 05fc5c5, libs/open_clip/src/open_clip/loss.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_targets(values: Tensor) -> Tensor:
    """(N, N): 1 where the first picture's value is larger than the second's, else 0, also in ties."""
    return (values[:, None] > values[None]).to(values.dtype)


def pair_loss(logits: Tensor, values: Tensor, comparable: Tensor | None = None) -> Tensor:
    """Mean cross-entropy (scalar) over ordered pairs, each with itself included.

    Args:
        logits: (N, N), that the first picture's value is the larger one.
        values: (N,).
        comparable: (N, N), true for pairs that count; None: all.
    """
    logits, target = logits.to(values.dtype), pair_targets(values)
    if comparable is not None:
        logits, target = logits[comparable], target[comparable]
    return F.binary_cross_entropy_with_logits(logits, target)


def value_loss(scores: Tensor, values: Tensor) -> Tensor:
    """log(1 + l), l the mean over pictures of the smooth L1 distance between scores (N,) and values (N,)."""
    return torch.log1p(F.smooth_l1_loss(scores.to(values.dtype), values))
