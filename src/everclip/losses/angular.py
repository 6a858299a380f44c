"""Losses that ask for a margin between the angles of what belongs together and of what does not."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.losses.similarity import similarity

NEAR = 1e-7  # of the square of a sine, whose root has no gradient at 0


def widened(cosines: Tensor, margin: float) -> Tensor:
    """Cosines of angles that are larger by `margin` (radians)."""
    sines = (1 - cosines.square()).clamp(min=NEAR).sqrt()
    return cosines * math.cos(margin) - sines * math.sin(margin)


def arc_margin(features: Tensor, rows: Tensor, columns: Tensor, *, scale: float, margin: float) -> Tensor:
    """Cross-entropy (scalar) among classes, where the angle to the right one counts as wider (arXiv 1801.07698).

    Args:
        features: (B, E) of length 1.
        rows: (C, E) of length 1, one per class.
        columns: (B,) which row is right.
        scale: of the cosines.
        margin: in radians.
    """
    cosines = similarity(features, rows)
    right = F.one_hot(columns, len(rows)).bool()
    return F.cross_entropy(scale * torch.where(right, widened(cosines, margin), cosines), columns)


def multi_caption_margin(features: Tensor, captions: Tensor, right: Tensor, *, scale: float, margin: float) -> Tensor:
    """Mean over pictures and their captions of the loss (scalar) of each among all captions of other groups.

    The angle to a picture's own captions counts as wider; they do not compete with each other.

    Args:
        features: (B, E) of pictures, of length 1.
        captions: (G, K, E) of length 1, those of a group all right for the same pictures.
        right: (B,) the group of each picture.
        scale: of the cosines.
        margin: in radians.
    """
    cosines = similarity(features, captions.flatten(0, 1)).view(len(features), *captions.shape[:2])
    own = scale * widened(cosines[torch.arange(len(right), device=right.device), right], margin)
    masked = F.one_hot(right, len(captions)).bool()[..., None]
    others = (scale * cosines).masked_fill(masked, torch.finfo(cosines.dtype).min).flatten(1).logsumexp(dim=1)
    return F.softplus(others[:, None] - own).mean()
