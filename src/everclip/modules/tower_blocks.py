"""The parts of a backbone's towers: blocks, norms and projection, for what changes weights there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from everclip.backbones.base import Backbone
from everclip.backbones.blocks import AdaptedBlock
from everclip.backbones.insertion import matching, replace_modules

Tower = Literal["vision", "text"]
Towers = Literal["both", "vision", "text"]
# Of vision transformers, of residual networks, of timm's trunks.
IMAGE_PROJECTIONS = (".visual.proj", ".visual.attnpool.c_proj.weight", ".visual.head.proj.weight")


def tower_blocks(backbone: Backbone, towers: Towers) -> dict[Tower, list[ResidualAttentionBlock]]:
    """The blocks of the image tower, the text tower, or both, first to last.

    Raises:
        ValueError: a tower that is not of open_clip's own blocks.
    """
    return {tower: list(_blocks(backbone, tower).values()) for tower in _chosen(towers)}


def adapt_blocks(
    backbone: Backbone, towers: Towers, layers: Sequence[int] | None = None
) -> dict[Tower, list[AdaptedBlock]]:
    """Makes blocks ones that take parts of a method, in place, and gives them, first to last.

    Args:
        backbone: computes the same until there are parts.
        towers: where.
        layers: numbers of the blocks in each tower, from 0, or negative ones, from the last; None: all.

    Raises:
        ValueError: a tower that is not of open_clip's own blocks, or without a block of this number.
    """
    adapted: dict[Tower, list[AdaptedBlock]] = {}
    for tower in _chosen(towers):
        names = list(_blocks(backbone, tower))
        names = [names[layer] for layer in chosen_layers(layers, len(names), tower)]
        replace_modules(backbone, "|".join(map(re.escape, names)), AdaptedBlock)
        adapted[tower] = [backbone.get_submodule(name) for name in names]  # type: ignore[misc]  # made above
    return adapted


def chosen_layers(layers: Sequence[int] | None, count: int, tower: Tower) -> Sequence[int]:
    """Numbers of blocks from 0, in order and each once.

    Args:
        layers: numbers from 0, or negative ones, from the last; None: all.
        count: of the blocks there are.
        tower: theirs, for the message.

    Raises:
        ValueError: there is no block of this number.
    """
    if layers is None:
        return range(count)
    if unknown := [layer for layer in layers if not -count <= layer < count]:
        raise ValueError(f"layers={unknown}: the blocks of the {tower} tower are 0 to {count - 1}")
    return sorted({layer % count for layer in layers})


def _chosen(towers: Towers) -> Sequence[Tower]:
    return ("vision", "text") if towers == "both" else (towers,)


def _blocks(backbone: Backbone, tower: Tower) -> dict[str, ResidualAttentionBlock]:
    size = backbone.vision if tower == "vision" else backbone.text
    blocks = {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, ResidualAttentionBlock)
        and isinstance(module.attn, nn.MultiheadAttention)
        and _tower(name) == tower
    }
    if size is None or len(blocks) != size.layers:
        raise ValueError(f"updates of weights need a {tower} tower of open_clip's own blocks, as in vit_b16_openai")
    return blocks


def _tower(name: str) -> Tower:
    """The tower that a module or parameter of a backbone belongs to; the logits' scale counts as text."""
    return "vision" if ".visual." in f".{name}" else "text"


def unfreeze_matching(backbone: Backbone, towers: Towers, pattern: str) -> list[str]:
    """Makes weights of towers trainable, in place; gives their names.

    Args:
        backbone: of any towers; scale and bias of the logits belong to none.
        towers: where.
        pattern: regular expression that matches the whole name of a weight, as
            `visual.transformer.resblocks.0.ln_1.bias`; names of the text tower begin otherwise.

    Raises:
        ValueError: nothing matches; says which names are near.
    """
    chosen = _chosen(towers)
    weights = {
        name.removeprefix("model."): weight
        for name, weight in backbone.named_parameters()
        if _tower(name) in chosen and name.rpartition(".")[2] not in ("logit_scale", "logit_bias")
    }
    found = matching(weights, pattern, f"weight of {' and '.join(chosen)} tower")
    for name in found:
        weights[name].requires_grad_(True)
    return found


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


def last_norm(backbone: Backbone, tower: Tower) -> nn.LayerNorm:
    """The norm that a tower's tokens pass after its last block.

    Raises:
        ValueError: the tower has none.
    """
    for name, module in backbone.named_modules():
        if isinstance(module, nn.LayerNorm) and name.endswith("visual.ln_post" if tower == "vision" else "ln_final"):
            return module
    raise ValueError(f"the {tower} tower has no norm after its last block, as those of vit_b16_openai have")


def image_projection(backbone: Backbone) -> nn.Parameter:
    """The matrix that takes features of the image tower to the joint embedding.

    Raises:
        ValueError: the tower has none of its own.
    """
    for name, parameter in backbone.named_parameters():
        if f".{name}".endswith(IMAGE_PROJECTIONS):
            return parameter
    raise ValueError("the image tower ends in no projection of its own, as that of vit_b16_openai does")
