"""LayerNorm tuning: gains and biases of the towers' norms are trained; every session goes on with the same.

Trained: all norms of both towers (65,536 values on ViT-B/16), by cross-entropy over the session's own classes.

Family: small parts in the towers.
Source: arXiv 2211.08682; for CLIP's towers arXiv 2312.11420 (of a language model behind CLIP).
Differs: classes are text features, so there is no head that would be trained as well.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from everclip.backbones.base import Backbone
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace
from everclip.modules.tower_blocks import Towers, layer_norms


class LayernormTuning(TowerTuning):
    """Norms of a backbone, trained session after session.

    Args:
        backbone: its norms are unfrozen in place.
        outside_blocks: also the norms before the first block and after the last.
        towers: which are adapted.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        outside_blocks: bool = True,
        towers: Towers = "both",
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        for parameter in layer_norms(backbone, towers, outside_blocks=outside_blocks):
            parameter.requires_grad_(True)
        super().__init__(backbone, label_space, label_smoothing)
