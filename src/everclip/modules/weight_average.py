"""Interpolation and running mean of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector


@torch.no_grad()
def interpolate(parameters: Sequence[nn.Parameter], anchors: Sequence[Tensor], alpha: float) -> None:
    """Moves parameters in place to `alpha` times themselves plus `1 - alpha` times the anchors.

    Exact at both ends: alpha 1 changes nothing, alpha 0 gives the anchors.

    Source: arXiv 2109.01903 equation 1 (mlfoundations/wise-ft @ 58b7a4b).
    """
    for parameter, anchor in zip(parameters, anchors, strict=True):
        parameter.copy_(anchor.to(parameter.device) * (1 - alpha) + parameter * alpha)


class WeightAverage(nn.Module):
    """The mean of weights along a path of training: those at its start and those after every `every`-th step.

    Its state is empty outside a path, so that a checkpoint between sessions holds no weights twice.

    Args:
        every: steps between two snapshots; the first is taken after the first step.

    Source: arXiv 2303.06628 equation 6, there called weight ensemble (`merge_we` of Thunderbeee/ZSCL @ b96e714).
    """

    mean: Tensor
    steps: Tensor

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def start(self, parameters: Sequence[nn.Parameter]) -> None:
        """Begins with these weights."""
        self.mean = parameters_to_vector(parameters)
        self.steps.zero_()

    @torch.no_grad()
    def after_step(self, parameters: Sequence[nn.Parameter]) -> None:
        """Takes a snapshot if it is time."""
        taken, rest = divmod(int(self.steps), self.every)
        if rest == 0:
            self.mean.lerp_(parameters_to_vector(parameters), 1 / (taken + 2))
        self.steps += 1

    @torch.no_grad()
    def finish(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gives the mean to the parameters, in place, and forgets it."""
        parts = self.mean.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))
        self.mean = self.mean.new_empty(0)
