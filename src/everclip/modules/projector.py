"""A small network from features to features, of two layers with batch statistics between."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Two linear layers; between them batch normalisation and ReLU.

    Values are always normalised by the batch that is given, so that what it makes of a batch of all processes is the
    same on each; no running statistics are kept. A batch of a single row gives a constant.

    Args:
        width: of the features (N, width), and of the result.
        hidden: width in between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale, self.shift = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.zeros(hidden))

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(features)
        variance, mean = torch.var_mean(hidden, dim=0, correction=0)
        return self.last(F.relu((hidden - mean) * (variance + 1e-5).rsqrt() * self.scale + self.shift))
