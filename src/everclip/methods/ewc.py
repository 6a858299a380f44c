"""Elastic weight consolidation: weights that mattered for earlier sessions are held by springs of their importance.

All weights but the logit scale are fine-tuned. A session ends with a pass over its pictures at learning rate 0, which
averages the squared gradients of the log-likelihood (the diagonal of the empirical Fisher information); later sessions
add `0.5 * strength * sum(fisher * (weight - anchor)^2)` to the loss. On pairs and masks the likelihood is that of their
objective: of pairs within a batch, so that `fisher_batch_size: 1` has nothing to measure.

Family: regularisation.
Source: arXiv 1612.00796 equation 3; `online`: arXiv 1805.06370 section 3.2 and aimagelab/mammoth @ 20ff873
(models/ewc_on.py, whose penalty lacks the factor 0.5); gradients of batches: G-U-N/PyCIL @ 27a5ed8 (models/ewc.py).
Differs: the Fisher information is taken at the true labels, as all implementations do, not at drawn ones. Mammoth
weighs each picture's squared gradient by the likelihood of its label, p(y|x); here all weigh the same. The quadratic
terms of `separate` sessions are kept as their sum, which is quadratic too: equal up to a constant. Of PyCIL it has the
default strength, but neither its limit of 1e-4 on the importance nor its mean of old and new importance by classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace, unfreeze
from everclip.types import Batch, Phase, Positive, Session


class Ewc(TowerTuning):
    """Fine-tuning with a quadratic penalty.

    Args:
        backbone: unfrozen in place.
        strength: lambda, factor of the penalty.
        variant: `separate`: a spring to where each session ended; `online`: one spring to where the last one did.
        decay: gamma, what earlier importances are multiplied by when a session's are added; `separate` sessions keep 1.
        fisher_batch_size: pictures whose mean gradient is squared; 1 is exact, None the batch size of training.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes, not in the Fisher information.
    """

    fisher: Tensor
    pull: Tensor
    squares: Tensor
    batches: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        strength: Annotated[float, Field(ge=0)] = 1000.0,
        variant: Literal["online", "separate"] = "online",
        decay: Annotated[float, Field(ge=0, le=1)] = 1.0,
        fisher_batch_size: Positive | None = None,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(backbone, label_space, label_smoothing)
        self.tuned = unfreeze(backbone)
        if variant == "separate" and decay != 1:
            raise ValueError(f"decay={decay} belongs to variant=online; separate sessions keep decay=1")
        self.strength = strength
        self.variant = variant
        self.decay = decay
        self.fisher_batch_size = fisher_batch_size
        self.measuring = False
        self.register_buffer("fisher", torch.empty(0))  # F, one value per weight
        self.register_buffer("pull", torch.empty(0))  # sum of F * anchor over separate sessions
        self.register_buffer("squares", torch.empty(0))  # sum of squared gradients so far
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        super().begin_session(session, extract)
        weights = parameters_to_vector(self.tuned).detach()
        self.squares = torch.zeros_like(weights)
        self.batches.zero_()
        self.anchor = weights
        if len(self.pull):
            self.anchor = torch.where(self.fisher > 0, self.pull / self.fisher, weights)

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`."""
        return sum(parameter.nbytes for parameter in self.tuned) * (2 if self.variant == "separate" else 1)

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        measure = Phase("fisher", loss=self.log_likelihood, epochs=1, batch_size=self.fisher_batch_size, lr=0.0)
        return Phase(), measure

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        self.measuring = False
        losses = super().loss(batch)
        if len(self.fisher):
            losses["ewc"] = self.penalty()
        return losses

    def penalty(self) -> Tensor:
        """Energy of the springs (scalar)."""
        sizes = [parameter.numel() for parameter in self.tuned]
        springs = zip(self.tuned, self.fisher.split(sizes), self.anchor.split(sizes), strict=True)
        energies = [(f * (p.flatten() - a).square()).sum() for p, f, a in springs]
        return 0.5 * self.strength * torch.stack(energies).sum()

    def log_likelihood(self, batch: Batch) -> dict[str, Tensor]:
        """The negative log-likelihood, whose gradients `before_step` squares."""
        self.measuring = True
        losses = self.objective.loss(self, batch, self.classes, 0.0)
        return {f"fisher_{name}": loss for name, loss in losses.items()}

    @override
    def before_step(self) -> None:
        if not self.measuring:
            return
        for parameter, total in zip(self.tuned, self.squares.split([p.numel() for p in self.tuned]), strict=True):
            if parameter.grad is not None:
                total += parameter.grad.flatten().square()
        self.batches += 1

    @override
    @torch.no_grad()
    def end_session(self, session: Session, extract: Extract) -> None:
        new = self.squares / self.batches.clamp(min=1)
        self.fisher = new + self.decay * self.fisher if len(self.fisher) else new
        if self.variant == "separate":
            pull = new * parameters_to_vector(self.tuned)
            self.pull = pull + self.pull if len(self.pull) else pull
        self.squares = self.squares.new_empty(0)
