"""LoRA: every session trains the same low-rank updates on, or adds its own to the weights and begins anew.

Trained: two factors for every projection of attention and MLP in both towers (4,423,680 values at rank 16 on ViT-B/16),
by cross-entropy over the session's own classes.

Family: low-rank updates.
Source: arXiv 2106.09685; as a sequential baseline of CLIP in arXiv 2412.01004; with `dropout` and q, k, v as targets,
CLIP-LoRA (arXiv 2405.18541, MaxZanella/CLIP-LoRA @ 358f0d7; `+experiment=lora/few_shot`).
Differs: CLIP-LoRA multiplies an update by alpha / sqrt(rank) (loralib/layers.py); its alpha times sqrt(rank) is `alpha`
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace
from everclip.modules.lora import EVERY_TARGET, LowRank, Target, add_low_rank, merged_bytes
from everclip.modules.tower_blocks import Towers
from everclip.types import Positive, Session


class Lora(TowerTuning):
    """Low-rank updates of a frozen backbone.

    Args:
        backbone: with access to the blocks of the adapted towers.
        rank: of each update.
        alpha: an update is multiplied by alpha / rank.
        targets: projections of queries, keys, values, all three by one update (`qkv`), outputs (`o`); first and second
            layer of the MLP (`fc`, `proj`).
        towers: which are adapted.
        dropout: probability that a value is not read by an update, in training; for targets q, k and v. Micro-batches
            and processes draw their own.
        merge: begin every session with new factors, on top of the earlier ones; False: go on with the same.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    parts: tuple[LowRank, ...]

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: Positive = 16,
        alpha: Annotated[float, Field(gt=0)] = 16.0,
        targets: Annotated[Sequence[Target], Field(min_length=1)] = EVERY_TARGET,
        towers: Towers = "both",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        merge: bool = False,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        updates = add_low_rank(backbone, rank=rank, targets=targets, towers=towers, scale=alpha / rank, dropout=dropout)
        super().__init__(backbone, label_space, label_smoothing, updates)
        self.merge = merge
        self.couples_batch = dropout > 0

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`: the updates of earlier sessions, where they are merged."""
        return merged_bytes(self.parts, len(sizes)) if self.merge else 0

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        super().begin_session(session, extract)
        if self.merge and not session.is_base:
            for update in self.parts:
                update.merge()
                update.reset()
