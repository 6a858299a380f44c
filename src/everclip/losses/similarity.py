"""Similarities, which logits and many losses are made of."""

from __future__ import annotations

import torch
from torch import Tensor


def similarity(features: Tensor, rows: Tensor) -> Tensor:
    """Dot products (..., B, C) of features (..., B, E) and rows (..., C, E), at least in float32.

    Also under mixed precision: with 8 bits, logits near 25 come in steps of 0.125, and ties go to the class that came
    first.
    """
    with torch.autocast(features.device.type, enabled=False):
        precision = torch.promote_types(features.dtype, torch.float32)
        return features.to(precision) @ rows.to(precision).mT
