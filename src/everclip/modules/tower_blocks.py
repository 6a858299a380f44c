"""The parts of a backbone's towers: blocks, norms and projection, for what changes weights there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from everclip.backbones.base import Backbone

Tower = Literal["vision", "text"]
Towers = Literal["both", "vision", "text"]
# Of vision transformers, of residual networks, of timm's trunks.
IMAGE_PROJECTIONS = (".visual.proj", ".visual.attnpool.c_proj.weight", ".visual.head.proj.weight")


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
        and _tower(name) == tower
    ]
    if size is None or len(blocks) != size.layers:
        raise ValueError(f"updates of weights need a {tower} tower of open_clip's own blocks, as in vit_b16_openai")
    return blocks


def _tower(name: str) -> Tower:
    """The tower that a module or parameter of a backbone belongs to; the logits' scale counts as text."""
    return "vision" if ".visual." in f".{name}" else "text"


def layer_norms(backbone: Backbone, towers: Towers, *, outside_blocks: bool = True) -> list[nn.Parameter]:
    """Weights and biases of the LayerNorms of the image tower, the text tower, or both, in the order of the model.

    Args:
        backbone: of any kind.
        towers: where.
        outside_blocks: also those before the first block and after the last.

    Raises:
        ValueError: there is none.
    """
    found = [
        parameter
        for name, module in backbone.named_modules()
        if isinstance(module, nn.LayerNorm)
        and towers in ("both", _tower(name))
        and (outside_blocks or ".resblocks." in name)
        for parameter in module.parameters()
    ]
    if not found:
        raise ValueError(f"towers={towers} has no LayerNorm that could be tuned; transformers have, as vit_b16_openai")
    return found


def image_projection(backbone: Backbone) -> nn.Parameter:
    """The matrix that takes features of the image tower to the joint embedding.

    Raises:
        ValueError: the tower has none of its own.
    """
    for name, parameter in backbone.named_parameters():
        if f".{name}".endswith(IMAGE_PROJECTIONS):
            return parameter
    raise ValueError("the image tower ends in no projection of its own, as that of vit_b16_openai does")
