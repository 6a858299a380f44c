"""Losses of finding in a clip what a text speaks of.

Source: arXiv 2404.00801 (yeliudev/R2-Tuning @ 03fbcf6, models/loss.py; nncore 0.4.4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.losses.similarity import similarity

TEMPERATURE = 0.07


def focal(logits: Tensor, right: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean cross-entropy (scalar), each term times how wrong it is to the power of `gamma` (arXiv 1708.02002).

    Args:
        logits: of whatever shape.
        right: bool.
        gamma: 0 is plain cross-entropy.
    """
    target = right.to(logits.dtype)
    wrong = (logits.sigmoid() - target).abs()
    return (wrong**gamma * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).mean()


def saliency_contrast(frames: Tensor, texts: Tensor, saliency: Tensor, chosen: Tensor) -> Tensor:
    """A frame of a clip is nearest its text, among the clip's and among those of the same time in the batch (scalar).

    Frames that stand out more than the chosen one do not count. (The code's second softmax is of all times, and has no
    gradient where no clip's frame counts.)

    Args:
        frames: (B, T, D).
        texts: (B, D).
        saliency: (B, T).
        chosen: (B,) a frame of each clip.
    """
    rows = torch.arange(len(frames), device=frames.device)
    near = F.cosine_similarity(frames, texts[:, None], dim=-1) / TEMPERATURE
    near = near.masked_fill(saliency > saliency[rows, chosen, None], -torch.inf)
    in_clip, in_batch = near.log_softmax(dim=1)[rows, chosen], near[:, chosen].log_softmax(dim=0).diagonal()
    return -in_clip.mean() - in_batch.mean()


def aligned(first: Tensor, second: Tensor) -> Tensor:
    """Each row finds its own among those of its group, both ways; the mean (scalar).

    Args:
        first: (G, N, D).
        second: (G, N, D).
    """
    near = similarity(F.normalize(first, dim=-1), F.normalize(second, dim=-1)) / TEMPERATURE
    both = [near.log_softmax(dim=dim).diagonal(dim1=1, dim2=2).mean() for dim in (1, 2)]
    return -(both[0] + both[1]) / 2
