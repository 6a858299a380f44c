"""What a method asks to be optimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from everclip.types.samples import Batch, Indices, Samples


class Draws(Protocol):
    """Draws the batches of a phase, where shuffled passes over its pictures will not do.

    Attributes:
        steps: batches of a pass.
    """

    @property
    def steps(self) -> int: ...

    def __call__(self, stream: np.random.Generator, size: int) -> Indices:
        """Positions (size,) in the phase's data, from random numbers that are the batch's own."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are optimised in a way of their own; None: as the others of the phase are.

    Attributes:
        parameters: those that do not require a gradient are left out.
        lr: learning rate before the schedule, which is the same for all groups.
        weight_decay: of the optimiser.
    """

    parameters: tuple[nn.Parameter, ...]
    lr: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Phase:
    """One stretch of optimisation; fields left None come from the run's configuration.

    Attributes:
        name: shown in logs.
        parameters: what the optimiser gets, in groups where they differ in learning rate or weight decay; None: all of
            the method that require a gradient. The logged learning rate is that of parameters without a group, or else
            of the first group.
        loss: maps a `Batch` to named, already weighted scalar terms; None: `Method.loss`.
        data: pictures to train on; None: the session's.
        draws: which of them come together in a batch; None: each comes once in a pass, in random order.
        epochs: passes over `data`.
        batch_size: pictures per step, over all processes.
        lr: learning rate before the schedule.
        auxiliary: pictures drawn beside `data` in every step (replay, a reference set), shuffled by themselves and
            repeated as often as the phase lasts.
        auxiliary_batch_size: auxiliary pictures per step, over all processes; None: as many as `batch_size`.
        augment_auxiliary: whether they are augmented as the others are.
    """

    name: str = "train"
    parameters: tuple[nn.Parameter | ParameterGroup, ...] | None = None
    loss: Callable[[Batch], dict[str, Tensor]] | None = None
    data: Samples | None = field(default=None, repr=False)
    draws: Draws | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    auxiliary: Samples | None = field(default=None, repr=False)
    auxiliary_batch_size: int | None = None
    augment_auxiliary: bool = True
