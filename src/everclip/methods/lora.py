"""LoRA: every session trains the same low-rank updates on, or adds its own to the weights and begins anew.

Trained: two factors for every projection of attention and MLP in both towers (4,423,680 values at rank 16 on ViT-B/16),
by cross-entropy over the session's own classes.

Family: low-rank updates.
Source: arXiv 2106.09685; as a sequential baseline of CLIP in arXiv 2412.01004.
Differs: CLIP-LoRA (arXiv 2405.18541, MaxZanella/CLIP-LoRA @ 358f0d7, loralib/layers.py) multiplies an update by
alpha / sqrt(rank); its alpha times sqrt(rank) is `alpha` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import LabelSpace, compared, first_template
from everclip.modules.lora import EVERY_TARGET, Target, add_low_rank
from everclip.modules.tower_blocks import Towers
from everclip.objectives.classification import Classification
from everclip.types import Batch, Positive, Session


class Lora(Method):
    """Low-rank updates of a frozen backbone.

    Args:
        backbone: with access to the blocks of the adapted towers.
        rank: of each update.
        alpha: an update is multiplied by alpha / rank.
        targets: projections of queries, keys, values, outputs (`o`); first and second layer of the MLP (`fc`, `proj`).
        towers: which are adapted.
        merge: begin every session with new factors, on top of the earlier ones; False: go on with the same.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    any_objective = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: Positive = 16,
        alpha: Annotated[float, Field(gt=0)] = 16.0,
        targets: Annotated[Sequence[Target], Field(min_length=1)] = EVERY_TARGET,
        towers: Towers = "both",
        merge: bool = False,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(backbone)
        self.updates = tuple(
            add_low_rank(backbone, rank=rank, targets=targets, towers=towers, scale=alpha / rank)
        )  # a tuple: they are part of the backbone, and of the state, only once
        self.merge = merge
        self.label_space = label_space
        self.label_smoothing = label_smoothing

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.objective = session.objective or Classification()
        self.classes = first_template(compared(session, self.label_space))
        for update in self.updates:
            if self.merge and not session.is_base:
                update.merge()
            if self.merge or session.is_base:
                update.reset()

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.loss(self, batch, self.classes, self.label_smoothing)
