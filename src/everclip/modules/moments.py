"""Moments of clips from what frame by frame fits a text."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from everclip.types import Moments

OVERLAP = 0.7  # a worse moment that shares more with a better one is left out
FOUND = 10


def from_saliency(saliency: Tensor) -> Moments:
    """The runs of parts that stand out most.

    Of all runs, by how far their sum exceeds what as many parts have on average, in standard deviations (a scan
    statistic); of runs that overlap much, the best.

    Args:
        saliency: (B, T).
    """
    batch, length = saliency.shape
    bounds = _runs(length).to(saliency.device)
    centred = saliency.detach().double() - saliency.detach().double().mean(dim=1, keepdim=True)
    sums = torch.cat([centred.new_zeros(batch, 1), centred.cumsum(dim=1)], dim=1)
    sizes = (bounds[:, 1] - bounds[:, 0]).double()
    spread = (sizes * (1 - sizes / length)).sqrt()
    scores = (sums[:, bounds[:, 1]] - sums[:, bounds[:, 0]]) / spread
    spans = (bounds / length).to(saliency.dtype).expand(batch, -1, -1)
    return Moments(saliency, best(spans, scores, FOUND))


def best(spans: Tensor, scores: Tensor, count: int, overlap: float = OVERLAP) -> Tensor:
    """The best spans, none of which shares much with a better one (non-maximum suppression).

    Args:
        spans: (B, K, 2).
        scores: (B, K).
        count: how many to give.
        overlap: intersection over union that is too much.

    Returns:
        (B, count, 2), the best first; -1 where there are fewer.
    """
    left, found = scores.clone(), []
    for _ in range(count):
        score, place = left.max(dim=1)
        own = spans[torch.arange(len(spans), device=spans.device), place]
        found.append(torch.where(score[:, None] > -torch.inf, own, own.new_tensor(-1.0)))
        left = left.masked_fill(shares(spans, own) > overlap, -torch.inf)
        left[torch.arange(len(spans), device=spans.device), place] = -torch.inf
    return torch.stack(found, dim=1)


def shares(spans: Tensor, one: Tensor) -> Tensor:
    """Intersection over union (B, K) of spans (B, K, 2) with one (B, 2) of each clip."""
    start, end = one[:, None, 0], one[:, None, 1]
    shared = (torch.minimum(spans[..., 1], end) - torch.maximum(spans[..., 0], start)).clamp(min=0)
    whole = spans[..., 1] - spans[..., 0] + end - start - shared
    return shared / whole.clamp(min=1e-12)


@cache
def _runs(length: int) -> Tensor:
    """Starts and ends (R, 2) of all runs of parts but that of all."""
    starts, ends = torch.triu_indices(length + 1, length + 1, offset=1)
    bounds = torch.stack([starts, ends], dim=1)
    return bounds[(ends - starts < length) | (length == 1)]
