"""BitFit: the biases of the towers are trained, and nothing else; every session goes on with the same.

Trained: every bias of attention, MLP and norms in both towers (171,008 values on ViT-B/16, per block 11 times the
width), by cross-entropy over the session's own classes.

Family: small parts in the towers.
Source: arXiv 2106.10199; umbertocappellazzo/PETL_AST @ 1fe23af (main.py).
Differs: classes are text features, so there is no head whose layer would be trained as well.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from everclip.backbones.base import Backbone
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace
from everclip.modules.tower_blocks import Towers, unfreeze_matching


class Bitfit(TowerTuning):
    """Biases of a backbone, trained session after session.

    Args:
        backbone: unfrozen in place, where a bias is chosen.
        pattern: regular expression that matches the whole name of a weight to train, as
            `visual.transformer.resblocks.0.attn.in_proj_bias`.
        towers: which are adapted.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        pattern: str = ".*bias",
        towers: Towers = "both",
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        unfreeze_matching(backbone, towers, pattern)
        super().__init__(backbone, label_space, label_smoothing)
