"""What a set of pictures and texts looks like in the joint space, and how far that is from what it was.

Sources: arXiv 2203.02053 (modality gap), 2005.10242 (alignment, uniformity), 1905.00414 (linear CKA), used for pictures
and texts by 2504.12717 and 2605.31229; the latter compares neighbours with the session before, not with the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

NEIGHBOURS = 10
SAME = 1e-6  # similarities that float32 features do not tell apart


def geometry(pictures: Tensor, texts: Tensor) -> dict[str, float]:
    """Measures of pictures (N, E) and texts (N, E) of length 1 that belong together in pairs.

    `modality_gap`: squared distance of the two means. `alignment`: mean squared distance of a pair. `uniformity`: log
    of the mean of exp(-2 d^2) over all pairs of features, of either kind; the lower, the more evenly spread they are.
    `cross_cka`: linear CKA of pictures and texts, 0 to 1.
    """
    pictures, texts = pictures.double(), texts.double()
    return {
        "modality_gap": float((pictures.mean(dim=0) - texts.mean(dim=0)).square().sum()),
        "alignment": float((pictures - texts).square().sum(dim=1).mean()),
        "uniformity": _uniformity(torch.cat([pictures, texts])),
        "cross_cka": linear_cka(pictures, texts),
    }


def changes(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, float]:
    """Measures of what is left of how `pictures` (N, E) and `texts` (N, E) of length 1 were seen before.

    `image_cka`, `text_cka`: linear CKA of the features then and now, 0 to 1. `neighbour_overlap`: share in % of the
    `NEIGHBOURS` nearest texts of a picture, and pictures of a text, that are still among the nearest.
    """
    then, today = (sight["pictures"].double() @ sight["texts"].double().T for sight in (before, now))
    kept = [_kept(then, today), _kept(then.T, today.T)]
    return {
        "image_cka": linear_cka(before["pictures"], now["pictures"]),
        "text_cka": linear_cka(before["texts"], now["texts"]),
        "neighbour_overlap": 100 * sum(kept) / len(kept),
    }


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment of features (N, D) and (N, D') of the same samples; 0 if either does not vary."""
    one, other = (features.double() - features.double().mean(dim=0) for features in (first, second))
    norms = (one.T @ one).norm() * (other.T @ other).norm()
    return min(1.0, float((one.T @ other).square().sum() / norms)) if norms else 0.0


def _uniformity(features: Tensor) -> float:
    """Log of the mean of exp(-2 d^2) over pairs of different rows (N, E) of length 1, for which d^2 = 2 - 2 s."""
    each = (4 * (features @ features.T) - 4).exp()
    return math.log(float(each.sum() - each.trace()) / (len(each) * (len(each) - 1)))


def _kept(then: Tensor, today: Tensor) -> float:
    """Share of the highest of each row (Q, I) that are still among the highest, ties included."""
    count = min(NEIGHBOURS, then.shape[1])
    nearest = then.topk(count, dim=1).indices
    limit = today.topk(count, dim=1).values[:, -1:] - SAME
    return float((today.gather(1, nearest) >= limit).double().mean())
