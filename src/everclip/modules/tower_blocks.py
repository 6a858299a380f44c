"""The transformer blocks of a backbone's towers, for what changes weights in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from everclip.backbones.base import Backbone

Tower = Literal["vision", "text"]
Towers = Literal["both", "vision", "text"]


def tower_blocks(backbone: Backbone, towers: Towers) -> dict[Tower, list[ResidualAttentionBlock]]:
    """The blocks of the image tower, the text tower, or both, first to last.

    Raises:
        ValueError: a tower that is not of open_clip's own blocks.
    """
    chosen: Sequence[Tower] = ("vision", "text") if towers == "both" else (towers,)
    return {tower: _blocks(backbone, tower) for tower in chosen}


def _blocks(backbone: Backbone, tower: Tower) -> list[ResidualAttentionBlock]:
    size = backbone.vision if tower == "vision" else backbone.text
    blocks = [
        module
        for name, module in backbone.named_modules()
        if isinstance(module, ResidualAttentionBlock)
        and isinstance(module.attn, nn.MultiheadAttention)
        and (".visual." in f".{name}") == (tower == "vision")
    ]
    if size is None or len(blocks) != size.layers:
        raise ValueError(f"updates of weights need a {tower} tower of open_clip's own blocks, as in vit_b16_openai")
    return blocks
