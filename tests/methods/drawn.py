"""Weights for comparisons with official code: drawn in the order of that code's sorted names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def draw(weights: Mapping[str, Tensor]) -> None:
    """Fills weights, given by their official names, in place with what the official ones were filled with."""
    stream = np.random.RandomState(0)
    with torch.no_grad():
        for _, weight in sorted(weights.items()):
            weight.copy_(torch.from_numpy(0.2 * stream.standard_normal(tuple(weight.shape))))


def numbers(*shape: int, seed: int = 1) -> Tensor:
    """The input that the official code was given."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))
