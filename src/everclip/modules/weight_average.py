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


class _PathMean(nn.Module):
    """A mean of weights along a path of training.

    Its state is empty outside a path, so that a checkpoint between sessions holds no weights twice.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(0))

    @torch.no_grad()
    def _start(self, parameters: Sequence[nn.Parameter]) -> None:
        self.mean = parameters_to_vector(parameters)

    @torch.no_grad()
    def _take(self, parameters: Sequence[nn.Parameter], share: float) -> None:
        """Moves the mean towards the weights, by their share of it."""
        self.mean.lerp_(parameters_to_vector(parameters), share)

    @torch.no_grad()
    def finish(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gives the mean to the parameters, in place, and forgets it."""
        parts = self.mean.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))
        self.mean = self.mean.new_empty(0)


class WeightAverage(_PathMean):
    """The mean of weights at the start of a path and after every `every`-th step.

    Args:
        every: steps between two snapshots; the first is taken after the first step.

    Source: arXiv 2303.06628 equation 6, there called weight ensemble (`merge_we` of Thunderbeee/ZSCL @ b96e714).
    """

    steps: Tensor

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def start(self, parameters: Sequence[nn.Parameter]) -> None:
        """Begins with these weights."""
        self._start(parameters)
        self.steps.zero_()

    def after_step(self, parameters: Sequence[nn.Parameter]) -> None:
        """Takes a snapshot if it is time."""
        taken, rest = divmod(int(self.steps), self.every)
        if rest == 0:
            self._take(parameters, 1 / (taken + 2))
        self.steps += 1


class EpochAverage(_PathMean):
    """The mean of weights after every epoch of a path, weighted by a Gaussian of the epoch's number, from 1.

    Args:
        peak: epoch, or place between two, where the Gaussian has its mean; it may lie behind the last.
        spread: its standard deviation, in epochs.

    Source: arXiv 2307.06948 section 3.3, there called Gaussian weighted prompt aggregation; the GPA of
    muzairkhattak/PromptSRC @ bb95c77, `trainers/promptsrc.py`.
    """

    epochs: Tensor
    log_weight: Tensor

    def __init__(self, peak: float, spread: float) -> None:
        super().__init__()
        self.peak, self.spread = peak, spread
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self.register_buffer("log_weight", torch.zeros((), dtype=torch.float64))  # of all epochs so far

    def start(self, parameters: Sequence[nn.Parameter]) -> None:
        """Begins a path at these weights, which do not count."""
        self._start(parameters)
        self.epochs.zero_()
        self.log_weight.fill_(-torch.inf)

    def after_epoch(self, parameters: Sequence[nn.Parameter]) -> None:
        """Takes the weights as they are now."""
        self.epochs += 1
        own = -0.5 * ((self.epochs.double() - self.peak) / self.spread) ** 2
        self.log_weight = torch.logaddexp(self.log_weight, own)
        self._take(parameters, float((own - self.log_weight).exp()))
