"""Tokens that tell each frame of a clip about the others, made by the frozen attention of the blocks.

Legend: N rows, which are B clips of T frames one after the other, L tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.blocks import Prefix, mix
from everclip.backbones.insertion import TokenEdit
from everclip.modules.block_parts import DropPath


class TemporalTokens(nn.Module):
    """One more token of every frame in the attention of every block, which has seen those of the other frames.

    Args:
        blocks: of the image tower; their weights are used and stay outside of this module.
        num_frames: that tokens are learned for. Clips of another length take those of the same moments.
        dropout: probability of learned values.
        drops: leave out the tokens of some frames, one for each block.

    Source: arXiv 2312.08010; Shahzadnit/EZ-CLIP @ 2f4d622, clip/model.py.
    """

    def __init__(self, blocks: Sequence[Any], num_frames: int, dropout: float, drops: Sequence[DropPath]) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(len(blocks), num_frames, blocks[0].ln_1.normalized_shape[0]))
        self.blocks, self.drops = tuple(blocks), tuple(drops)  # tuples: they are in the backbone, and its state
        self.dropout = dropout

    def reset(self) -> None:
        """Draws them uniformly within sqrt(6 / (3 * 16 ** 2 + D)), as for patches of 16 pixels."""
        bound = (6 / (3 * 16**2 + self.tokens.shape[2])) ** 0.5
        nn.init.uniform_(self.tokens, -bound, bound)

    def forward(self, layer: int, x: Tensor, frames: int) -> Prefix:
        """Keys and values (N, 1, D) of a block, from the residual stream (N, L, D) in front of it."""
        block, learned = self.blocks[layer], F.dropout(self.tokens[layer], self.dropout, self.training)
        moments = (torch.arange(frames, device=x.device) * 2 + 1) * len(learned) // (2 * frames)
        asking = learned[moments].to(x.dtype) + x.mean(dim=1).unflatten(0, (-1, frames))
        seen = block.attn.out_proj(mix(block.attn, block.ln_1(asking), causal=False, prefix=None))
        normed = block.ln_1(self.drops[layer].of(seen)).flatten(0, 1)[:, None]
        _, keys, values = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
        return keys, values


class AdaptedReading(TokenEdit):
    """Temporal tokens in every attention of a tower, and adapters between attention and MLP; for one pass.

    Args:
        adapters: one for each block, or none at all.
        temporal: None: there are no temporal tokens.
        frames: T.
    """

    halved = True

    def __init__(self, adapters: Sequence[nn.Module], temporal: TemporalTokens | None = None, frames: int = 1) -> None:
        self.adapters, self.temporal, self.frames = adapters, temporal, frames

    @override
    def before(self, layer: int, tokens: Tensor) -> Tensor:
        self.stream = tokens
        return tokens

    @override
    def prefix(self, layer: int) -> Prefix | None:
        return None if self.temporal is None else self.temporal(layer, self.stream, self.frames)

    @override
    def between(self, layer: int, tokens: Tensor) -> Tensor:
        return tokens + self.adapters[layer](tokens, tokens) if self.adapters else tokens
