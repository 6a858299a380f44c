"""A small transformer over the frames of a clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

HEAD_WIDTH = 64
STD = 0.02


class FrameIntegration(nn.Module):
    """Frames that look at each other before their mean is taken.

    Args:
        width: E, of a frame's feature.
        frames: that there are positions for; those of other clips lie between them.
        layers: blocks.
        zero_init: begin as the mean over frames.

    Source: arXiv 2208.02816 (X-CLIP); Francis-Rings/ILA @ 1a912d9, models/mit.py.
    """

    def __init__(self, width: int, frames: int, layers: int, zero_init: bool) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(frames, width))
        _draw(self.positions, zero_init)
        self.blocks = nn.ModuleList(_block(width, zero_init) for _ in range(layers))

    def forward(self, frames: Tensor) -> Tensor:
        """Features (B, E) of clips, of any length, from those (B, T, E) of their frames."""
        count, positions = frames.shape[1], self.positions[:]
        if count != len(positions):
            positions = F.interpolate(positions.T[None], size=count, mode="linear")[0].T
        x = frames + positions
        for block in self.blocks:
            x = block(x)
        return (frames + x).mean(dim=1)


def _block(width: int, zero_init: bool) -> nn.Module:
    """A block that is drawn as there, or adds nothing at first."""
    activation: Callable[[], nn.Module] = QuickGELU
    block: Any = ResidualAttentionBlock(width, max(1, width // HEAD_WIDTH), act_layer=activation)
    for layer, last in ((block.attn.out_proj, True), (block.mlp.c_fc, False), (block.mlp.c_proj, True)):
        _draw(layer.weight, last and zero_init)
        nn.init.zeros_(layer.bias)
    return block


def _draw(weight: Tensor, zero: bool) -> None:
    nn.init.zeros_(weight) if zero else nn.init.trunc_normal_(weight, std=STD)
