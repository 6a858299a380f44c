"""CoDyRA: low-rank updates of every weight, whose ranks are learned: few where few are enough, so little is forgotten.

Every rank-1 component of an update has an importance; in the second part of a session, a growing soft threshold pushes
importances to zero. What is left is merged when the next session begins, with updates of its own. Trained: factors and
importances (4,425,984 values at rank 16 on ViT-B/16).

Family: low-rank updates.
Source: arXiv 2412.01004; official code Artificer-AI-Lab/CoDyRA @ c1691e4 (`models/codyra.py`, `loralib/codyra.py`).
Differs: texts of earlier classes are not encoded in training; the code sets their logits to -inf in one loss and gives
them no picture in the other, where their rows are zero and count in the mean, so losses and gradients are the same.
Where fewer iterations than values of the threshold are left, it grows in every one; the code then leaves it at zero.
Paper and code differ in the threshold, see `threshold`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.global_batch import global_rows
from everclip.methods.base import Extract, Method
from everclip.modules.lora import EVERY_TARGET, Target, add_low_rank, merged_bytes, soft_threshold
from everclip.modules.tower_blocks import Towers
from everclip.types import Batch, ClassSet, Positive, Session


class Codyra(Method):
    """Rank-selective low-rank updates of a frozen backbone.

    Args:
        backbone: with access to the blocks of the adapted towers.
        rank: components of each update before any is dropped.
        targets: projections of queries, keys, values, outputs (`o`); first and second layer of the MLP (`fc`, `proj`).
        towers: which are adapted.
        gate: importances at the start of a session: drawn from the `normal` distribution, or `ones`.
        iterations: T, steps of a session, from which the growth of the threshold is planned.
        dense: share of the iterations before the threshold begins to grow.
        kappa_max: threshold at the end.
        kappa_steps: values that it takes from 0 to `kappa_max`.
        threshold: `exact` as in the paper; `code` as in the official code, which drops all below twice the threshold.
        text_weight: of the loss that picks the pictures of each class text.
    """

    couples_batch = True  # the loss over pictures is a softmax over the batch
    step: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: Positive = 16,
        targets: Annotated[Sequence[Target], Field(min_length=1)] = EVERY_TARGET,
        towers: Towers = "both",
        gate: Literal["normal", "ones"] = "normal",
        iterations: Positive = 500,
        dense: Annotated[float, Field(ge=0, le=1)] = 0.5,
        kappa_max: Annotated[float, Field(ge=0)] = 0.005,
        kappa_steps: Annotated[int, Field(ge=2)] = 50,
        threshold: Literal["code", "exact"] = "code",
        text_weight: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__(backbone)
        # A tuple: updates are part of the backbone, and so of the state, only once.
        self.updates = tuple(add_low_rank(backbone, rank=rank, targets=targets, towers=towers, gated=True))
        self.gate = gate
        self.iterations = iterations
        self.dense = dense * iterations
        self.kappa_max = kappa_max
        self.kappa_steps = kappa_steps
        self.threshold = threshold
        self.text_weight = text_weight
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        self.num_seen = len(session.seen)
        for update in self.updates:
            if not session.is_base:
                update.merge()
            update.reset(self.gate)
        self.step.zero_()

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`: the updates of earlier sessions, if no gate is zero."""
        return merged_bytes(self.updates, len(sizes))

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.logits(batch.images, self.classes)
        columns = self.classes.columns(batch.labels)
        image_to_text = F.cross_entropy(logits, columns)
        together, own = global_rows(batch.indices, logits, columns)
        text_to_image = -together.log_softmax(dim=0).gather(1, own[:, None]).sum() / self.num_seen
        return {"image_to_text": image_to_text, "text_to_image": self.text_weight * text_to_image}

    def kappa(self, step: int) -> float:
        """The threshold in iteration `step` (from 0)."""
        every = max(1, int((self.iterations - self.dense) // self.kappa_steps))
        first = math.ceil(self.dense)
        raised = max(0, step // every - (first - 1) // every) if step >= first else 0
        return self.kappa_max * min(1.0, raised / (self.kappa_steps - 1))

    @override
    @torch.no_grad()
    def after_step(self) -> None:
        step = int(self.step)
        if step > self.dense:
            for update in self.updates:
                assert update.gate is not None  # asked for above
                update.gate.copy_(soft_threshold(update.gate, self.kappa(step), self.threshold))
        self.step += 1

    @override
    def templates(self, classes: ClassSet) -> tuple[str, ...]:
        return classes.templates[:1]
