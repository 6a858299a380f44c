"""Forward pass of open_clip's transformer blocks with an insertion point inside the attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from everclip.errors import ConfigError

Prefix = tuple[Tensor, Tensor]


def _check_plain(block: Any) -> None:
    """Refuses a block whose own forward is not what this module computes.

    Raises:
        ConfigError: another structure.
    """
    attention = block.attn
    plain = (
        isinstance(block, ResidualAttentionBlock)
        and type(block).forward is ResidualAttentionBlock.forward
        and isinstance(attention, nn.MultiheadAttention)
        and attention.batch_first
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not hasattr(block, "ln_1_kv")
    )
    if not plain:
        raise ConfigError(
            f"a {type(block).__name__} with attention {type(attention).__name__} gives no access to its tokens, "
            "which this method needs; use a backbone of open_clip's plain blocks, for example backbone=vit_b16_openai"
        )


class FusedQuickGELU(nn.Module):
    """x * sigmoid(1.702 x) by way of SiLU, which keeps one tensor for the backward pass instead of two."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x).mul_(1 / 1.702)


def fuse_activations(model: nn.Module) -> None:
    """Exchanges open_clip's QuickGELU modules for `FusedQuickGELU`, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is QuickGELU:
                setattr(module, name, FusedQuickGELU())


def run_block(
    block: Any,
    x: Tensor,
    *,
    causal: bool = False,
    prefix: Prefix | None = None,
    keep: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Residual stream (N, L, D) after a plain block, whose dropout is off.

    Args:
        block: every part is read when it is used, so replaced sub-modules and parametrised weights act.
        x: (N, L, D), the residual stream before the block.
        causal: a token sees none behind it.
        prefix: keys and values (N or 1, P, D) in front of the projected ones; every token sees them.
        keep: (N, K) the only positions of each row that are wanted, (N, K, D) is returned; None: all.
        recompute: the MLP's hidden values, two fifths of what a block keeps for the backward pass, are computed again
            in it instead; the numbers are the same.

    Raises:
        ConfigError: the block has another structure.
    """
    _check_plain(block)
    mixed = mix(block.attn, block.ln_1(x), causal, prefix)
    if keep is not None:
        rows = torch.arange(len(x), device=x.device)[:, None]
        x, mixed = x[rows, keep], mixed[rows, keep]
    x = x + block.ls_1(block.attn.out_proj(mixed))
    if recompute and x.requires_grad:
        return checkpoint(_add_mlp, block, x, use_reentrant=False, preserve_rng_state=False)
    return _add_mlp(block, x)


def _add_mlp(block: Any, x: Tensor) -> Tensor:
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def mix(attention: Any, x: Tensor, causal: bool, prefix: Prefix | None) -> Tensor:
    """Attended values (N, L, D), before the output projection, of normalised tokens; see `run_block`."""
    q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    mask = None
    if prefix is not None:
        k, v = (_in_front(given, own) for given, own in zip(prefix, (k, v), strict=True))
        if causal:
            mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=x.device).tril(k.shape[1] - q.shape[1])
    q, k, v = (_heads(t, attention.num_heads) for t in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal and mask is None)
    return mixed.transpose(1, 2).flatten(2)


def attend_to_self(block: Any, x: Tensor) -> Tensor:
    """What a plain block's attention would add to the residual stream (N, L, D) if every token saw itself alone."""
    attention = block.attn
    weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
    return attention.out_proj(F.linear(block.ln_1(x), weight, bias))


def run_block_naively(block: Any, x: Tensor, *, causal: bool = False, prefix: Prefix | None = None) -> Tensor:
    """What `run_block` computes, written out: three projections, materialised mask and weights, unfused QuickGELU.

    For tests and benchmarks: the form of neuraptic/cpe-clip @ 9309631, `CoLeLib/models/clip_models.py`.
    """
    _check_plain(block)
    attention, normed = block.attn, block.ln_1(x)
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (F.linear(normed, w, b) for w, b in zip(weights, biases, strict=True))
    if prefix is not None:
        k, v = (_in_front(given, own) for given, own in zip(prefix, (k, v), strict=True))
    q = q * (x.shape[2] // attention.num_heads) ** -0.5
    q, k, v = (_heads(t, attention.num_heads) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2)
    if causal:
        mask = scores.new_full(scores.shape[-2:], torch.finfo(x.dtype).min).triu(1 + k.shape[2] - q.shape[2])
        scores = scores + mask.expand(len(x), 1, -1, -1)
    mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).contiguous().view(x.shape)
    x = x + block.ls_1(attention.out_proj(mixed))
    normed = block.ln_2(x)
    if type(block.mlp[1]) is not FusedQuickGELU:
        return x + block.ls_2(block.mlp(normed))
    hidden = block.mlp[0](normed)
    return x + block.ls_2(block.mlp[2](hidden * torch.sigmoid(1.702 * hidden)))


def _in_front(given: Tensor, own: Tensor) -> Tensor:
    return torch.cat([given.to(own.dtype).expand(len(own), -1, -1), own], dim=1)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, D) as (N, heads, L, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
