"""Forward pass of open_clip's transformer blocks with an insertion point inside the attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from everclip.errors import ConfigError

Prefix = tuple[Tensor, Tensor]


def is_plain(block: nn.Module) -> bool:
    """Whether `run_block` computes what the block itself does."""
    attention = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and isinstance(attention, nn.MultiheadAttention)
        and attention.batch_first
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not hasattr(block, "ln_1_kv")
    )


def run_block(block: Any, x: Tensor, *, causal: bool = False, prefix: Prefix | None = None) -> Tensor:
    """Residual stream (N, L, D) after a plain block, whose dropout is off.

    Args:
        block: every part is read when it is used, so replaced sub-modules and parametrised weights act.
        x: (N, L, D), the residual stream before the block.
        causal: a token sees none behind it.
        prefix: keys and values (N or 1, P, D) in front of the projected ones; every token sees them.

    Raises:
        ConfigError: the block has another structure.
    """
    if not is_plain(block):
        raise ConfigError(
            f"a {type(block).__name__} with attention {type(block.attn).__name__} gives no access to its tokens, "
            "which this method needs; use a backbone of open_clip's plain blocks, for example backbone=vit_b16_openai"
        )
    x = x + block.ls_1(attend(block.attn, block.ln_1(x), causal, prefix))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def attend(attention: Any, x: Tensor, causal: bool, prefix: Prefix | None) -> Tensor:
    """Self-attention (N, L, D) of a `torch.nn.MultiheadAttention` on normalised tokens, see `run_block`."""
    q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    mask = None
    if prefix is not None:
        k, v = (
            torch.cat([p.to(t.dtype).expand(len(t), -1, -1), t], dim=1) for p, t in zip(prefix, (k, v), strict=True)
        )
        if causal:
            mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=x.device).tril(k.shape[1] - q.shape[1])
    q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal and mask is None)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))
