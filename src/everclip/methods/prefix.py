"""Prefix tuning: keys and values that belong to no token are trained in every block; sessions go on with the same.

Every token's attention sees them besides the tokens, so the start is not the identity. Trained: as many keys as values
for every block (368,640 values at length 12 on ViT-B/16), by cross-entropy over the session's own classes.

Family: small parts in the towers.
Source: arXiv 2101.00190; as in arXiv 2312.03694 (umbertocappellazzo/PETL_AST @ 1fe23af, src/AST_prompt_tuning.py).
Differs: as in that code, no network makes them from smaller ones; `length` is half of its `prompt_len_pt`. Classes are
text features, so no head and no last norm is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from everclip.backbones.base import Backbone
from everclip.methods.families import TowerTuning
from everclip.modules import block_parts
from everclip.modules.fine_tuning import LabelSpace
from everclip.modules.tower_blocks import Towers, adapt_blocks
from everclip.types import Positive


class Prefix(TowerTuning):
    """Keys and values in the blocks of a frozen backbone.

    Args:
        backbone: with access to the blocks of the adapted towers.
        length: keys, and as many values, of a block.
        towers: which are adapted.
        layers: numbers of the adapted blocks in each tower, from 0, or negative ones, from the last; None: all.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        length: Positive = 12,
        towers: Towers = "both",
        layers: Sequence[int] | None = None,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        parts = []
        for blocks in adapt_blocks(backbone, towers, layers).values():
            for block in blocks:
                part = block_parts.Prefix(block.ln_1.normalized_shape[0], length)
                block.parts["front"] = part
                parts.append(part)
        super().__init__(backbone, label_space, label_smoothing, parts)
