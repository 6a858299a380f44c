"""Convpass: convolutions over neighbouring tokens beside attention and MLP are trained; sessions go on with the same.

A bypass takes the normalised tokens to a few channels, convolves the patches in their grid and the class token alone,
and adds the result to the residual stream; at first nothing changes. Trained: two bypasses per block (541,440 values on
ViT-B/16, 327,552 of them in the image tower), by cross-entropy over the session's own classes.

Family: small parts in the towers.
Source: arXiv 2207.07039; JieShibo/PETL-ViT @ 026e4f1 (convpass/vtab).
Differs: the code adapts image towers alone; texts are convolved with the tokens before them, so that none sees a later
one. No dropout unless asked for (0.1 in the code), no stochastic depth. The code chooses `scale` and `kernel` for each
data set, and the best of ten epochs on its test pictures. Classes are text features, so there is no head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from everclip.backbones.base import Backbone
from everclip.methods.families import TowerTuning
from everclip.modules import block_parts
from everclip.modules.fine_tuning import LabelSpace
from everclip.modules.tower_blocks import Towers, adapt_blocks
from everclip.types import Positive


class Convpass(TowerTuning):
    """Convolutional bypasses in the blocks of a frozen backbone.

    Args:
        backbone: with access to the blocks of the adapted towers.
        channels: of a bypass.
        beside: layers with a bypass.
        scale: factor of what a bypass adds.
        dropout: probability, behind the convolution. Micro-batches and processes draw their own.
        kernel: at the start, the `identity` or `xavier` uniform.
        towers: which are adapted.
        layers: numbers of the adapted blocks in each tower, from 0, or negative ones, from the last; None: all.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        channels: Positive = 8,
        beside: Annotated[Sequence[Literal["attention", "mlp"]], Field(min_length=1)] = ("attention", "mlp"),
        scale: Annotated[float, Field(gt=0)] = 1.0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        kernel: Literal["identity", "xavier"] = "identity",
        towers: Towers = "both",
        layers: Sequence[int] | None = None,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        parts = []
        for tower, blocks in adapt_blocks(backbone, towers, layers).items():
            for block in blocks:
                for layer in beside:
                    part = block_parts.Convpass(
                        block.ln_1.normalized_shape[0],
                        channels,
                        causal=tower == "text",
                        scale=scale,
                        dropout=dropout,
                        kernel=kernel,
                    )
                    block.parts[layer] = part
                    parts.append(part)
        super().__init__(backbone, label_space, label_smoothing, parts)
        self.couples_batch = dropout > 0
