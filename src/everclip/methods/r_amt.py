"""R-AMT: learns which pre-trained weights of the image tower to switch off; nothing is added to the model.

Scores of the weights of attention, and of the patch embedding, make a binary mask; they are trained by cross-entropy
with frozen text features and a pull towards zero. A score's gradient is dropped at random where it goes against that of
a distillation from CLIP without masks, which keeps what is general. Trained: 28,901,376 scores on ViT-B/16, of which a
checkpoint holds one bit each. New classes bring text features of their own and train the same mask on: what is off may
come on again.

Family: masks.
Source: arXiv 2307.15049, official code wuw2019/R-AMT @ 07f8d2c (code/trainers/masktuning.py, code/modules).
Differs: class names are not made lower case. A session begins with the scores of the start, zero where a weight is off;
the code trains one mask once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.distillation import distillation
from everclip.losses.global_batch import global_sum
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import LabelSpace, compared
from everclip.modules.masks import Target, add_masks, gradient_dropout, lifted
from everclip.types import Batch, Session

log = logging.getLogger("everclip")


class RAmt(Method):
    """Regularised mask tuning.

    Args:
        backbone: with access to the blocks of its image tower; its weights stay what they are.
        targets: the patch embedding, projections of attention, layers of the MLP; all three are the paper's R-PMT.
        start: score of a weight that is on when a session begins.
        threshold: a weight is on while its score is above.
        norm_weight: of the sum of the norms of the scores of every weight matrix.
        dropout: share of a dropped gradient that goes; 0: no gradient is dropped (the paper's AMT).
        temperature: of the distillation.
        label_space: see `LabelSpace`.

    Raises:
        ValueError: a threshold that is not between 0 and `start`, or a target that the image tower does not have.
    """

    shardable = False  # a pass lifts the masks of all blocks

    # Of one step, between its losses and its end.
    part: Tensor
    general: list[Tensor]

    def __init__(
        self,
        backbone: Backbone,
        *,
        targets: Annotated[Sequence[Target], Field(min_length=1)] = ("patch", "attention"),
        start: Annotated[float, Field(gt=0)] = 0.01,
        threshold: Annotated[float, Field(ge=0)] = 0.005,
        norm_weight: Annotated[float, Field(ge=0)] = 1e-4,
        dropout: Annotated[float, Field(ge=0, le=1)] = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        label_space: LabelSpace = "current",
    ) -> None:
        super().__init__(backbone)
        if threshold >= start:
            raise ValueError(f"threshold={threshold} must be below start={start}: else all weights begin switched off")
        self.masks = tuple(add_masks(backbone, targets, start=start, threshold=threshold))
        self.norm_weight = norm_weight
        self.dropout, self.temperature = dropout, temperature
        self.label_space = label_space

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = compared(session, self.label_space)
        self.text = self.class_features(self.classes)
        if self.dropout:
            self.known = frozen_features(self._without_masks, session.train, extract, keep=session.recurs)
        for mask in self.masks:
            mask.begin()
        self._forget()

    def _without_masks(self, images: Tensor) -> Tensor:
        with lifted(self.masks):
            return self.encode_image(images)

    def _logits(self, features: Tensor) -> Tensor:
        return self.backbone.logit_scale * similarity(features, self.text)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self._logits(self.encode_image(batch.images))
        losses = {"cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels))}
        scores = [mask.scores for mask in self.masks]
        if self.dropout:
            apart = distillation(logits, self._logits(self.known(batch)), self.temperature)
            self._remember(losses["cross_entropy"], torch.autograd.grad(apart, scores, retain_graph=True))
        if self.norm_weight:
            losses["norm"] = self.norm_weight * torch.stack([score.norm() for score in scores]).sum()
        return losses

    def _remember(self, loss: Tensor, gradients: Sequence[Tensor]) -> None:
        """Adds gradients of a micro-batch to those of the step, as soon as its part in it is known: the loss's own."""

        def add(part: Tensor) -> None:
            self.part = self.part + part
            self.general = [total + part * gradient for total, gradient in zip(self.general, gradients, strict=True)]

        loss.register_hook(add)

    def _forget(self) -> None:
        self.part = self.text.new_zeros(())
        self.general = [torch.zeros_like(mask.scores) for mask in self.masks] if self.dropout else []

    @override
    def before_step(self) -> None:
        if not self.general:  # no gradient is dropped
            return
        part = global_sum(self.part)
        for mask, total in zip(self.masks, self.general, strict=True):
            task = mask.scores.grad
            assert task is not None
            general = global_sum(total) / part
            mask.scores.grad = gradient_dropout(task, general, torch.rand_like(task), self.dropout)
        self._forget()

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        for mask in self.masks:
            mask.end()
        off = sum(int((~mask.on()).sum()) for mask in self.masks)
        log.info("%.2f %% of %d masked weights are off", 100 * off / self.num_trainable(), self.num_trainable())

    @override
    def num_trainable(self) -> int:
        return sum(mask.size for mask in self.masks)
