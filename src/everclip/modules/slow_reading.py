"""Texts that read the tokens of clips on their way through a frozen text tower.

B clips, C texts of each, S tokens of a clip, L tokens of a text, D width.

Source: arXiv 2504.01328 (SHI-Labs/Slow-Fast-Video-Multimodal-LLM @ 69676a1,
llava/model/language_model/hybrid_decoder_layer.py: onlytext2media_cross_attn, gating "whole-dynamic-tanh-warmup").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.blocks import mix
from everclip.backbones.insertion import TokenEdit


class Crossing(nn.Module):
    """What a block's own queries find in a clip, before its output projection; at first nothing of it is taken.

    Args:
        block: whose keys and values the new ones begin as.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        width, self.heads = block.attn.embed_dim, block.attn.num_heads
        self.key_value, self.gate = nn.Linear(width, 2 * width), nn.Linear(width, 1)
        self.warm_up = nn.Parameter(torch.zeros(1))
        with torch.no_grad():
            self.key_value.weight.copy_(block.attn.in_proj_weight[width:])
            self.key_value.bias.copy_(block.attn.in_proj_bias[width:])

    def forward(self, state: Tensor, queries: Tensor, clips: Tensor) -> Tensor:
        """What is added (B * C, L, D) to the heads' outputs.

        Args:
            state: (B * C, L, D), the heads' outputs.
            queries: (B * C, L, D), the texts of a clip one after the other.
            clips: (B, S, D).
        """
        rows = queries.reshape(len(clips), -1, queries.shape[-1])  # all texts of a clip at once
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (rows, *self.key_value(clips).chunk(2, dim=-1))
        )
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(queries.shape)
        return found * self.gate(state).tanh() * self.warm_up.tanh()


class SlowReading(TokenEdit):
    """Lets some blocks of the text tower read clips.

    Args:
        blocks: of the text tower.
        crossings: of the blocks with these numbers.
        layers: the numbers.
        clips: (B, S, D); as many rows pass for each.
    """

    halved = True

    def __init__(self, blocks: Sequence[Any], crossings: nn.ModuleList, layers: Sequence[int], clips: Tensor) -> None:
        self._blocks, self._crossings, self._clips = blocks, dict(zip(layers, crossings, strict=True)), clips

    @override
    def before(self, layer: int, tokens: Tensor) -> Tensor:
        self._read = tokens
        return tokens

    @override
    def between(self, layer: int, tokens: Tensor) -> Tensor:
        if layer not in self._crossings:
            return tokens
        block = self._blocks[layer]
        normed, attention = block.ln_1(self._read), block.attn
        width = attention.embed_dim
        queries = F.linear(normed, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
        state = mix(attention, normed, causal=True, prefix=None)
        added = F.linear(self._crossings[layer](state, queries, self._clips), attention.out_proj.weight)
        return tokens + block.ls_1(added)
