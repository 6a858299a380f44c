"""Forward pass of open_clip's transformer blocks with an insertion point inside the attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from everclip.errors import ConfigError

Prefix = tuple[Tensor, Tensor]
Branches = tuple[int, int]
Half = Literal["attention", "mlp"]
Weigh = Callable[[Tensor], Tensor | None]


def _check_plain(block: Any) -> None:
    """Refuses a block whose own forward is not what this module computes.

    Raises:
        ConfigError: another structure.
    """
    attention = block.attn
    plain = (
        isinstance(block, ResidualAttentionBlock)
        and type(block).forward in (ResidualAttentionBlock.forward, AdaptedBlock.forward)
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


class AdaptedBlock(ResidualAttentionBlock):
    """A plain block that parts of a method act in, whatever passes through it; its own parts keep their names.

    Attributes:
        parts: as many of these as the method puts there; they alone are ever in training mode.
            `front`: gives keys and values (1, P, D) in front of the projected ones, as `TokenEdit.prefix` does.
            `projections`: from normalised tokens (N, L, D) to what is added to their queries, keys and values
            (N, L, 3 D), or None.
            `attention`, `mlp`: from the normalised tokens that this layer reads and the output that it adds to the
            residual stream, both (N, L, D), to what is added besides.

    Raises:
        ConfigError: the block has another structure.
    """

    def __init__(self, block: nn.Module) -> None:
        nn.Module.__init__(self)  # a block's own would make weights
        _check_plain(block)
        for name, part in block.named_children():
            self.add_module(name, part)
        self.parts = nn.ModuleDict()

    def forward(
        self, q_x: Tensor, k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        """As open_clip calls it; a mask (L, L) is a causal one.

        Raises:
            ConfigError: a mask of each text's own.
        """
        if attn_mask is not None and attn_mask.ndim != 2:
            raise ConfigError(
                "a text tower whose mask differs between texts takes no parts in its blocks; use a causal one, for "
                "example backbone=vit_b16_openai, or method.towers=vision"
            )
        return run_block(self, q_x, causal=attn_mask is not None)


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
    branches: Branches | None = None,
    half: Half | None = None,
    weigh: Weigh | None = None,
) -> Tensor:
    """Residual stream (N, L, D) after a plain block, whose dropout is off.

    Args:
        block: every part is read when it is used, so replaced sub-modules and parametrised weights act.
        x: (N, L, D), the residual stream before the block.
        causal: a token sees none behind it.
        prefix: keys and values (N or 1, P, D) in front of the projected ones; every token sees them.
        keep: (N or 1, K) the only positions of each row that are wanted, (N, K, D) is returned; None: all.
        recompute: the MLP's hidden values, two fifths of what a block keeps for the backward pass, are computed again
            in it instead; the numbers are the same.
        branches: (B, S): each row ends in B branches of S tokens, which see what is in front of all of them, and of the
            branches only their own. A causal block without a prefix or parts of a method computes them.
        half: the `attention` alone, or the `mlp` behind it; None: both.
        weigh: see `TokenEdit.weigh`; of a block without branches.

    Raises:
        ConfigError: the block has another structure.
    """
    _check_plain(block)
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    if isinstance(block, AdaptedBlock):  # whose parts may mix tokens, or draw random numbers
        x = _run_adapted(block, x, causal, prefix, half, weigh)
        return x if keep is None else x[rows, keep]
    mixed = None
    if half != "mlp":
        mixed = mix(block.attn, block.ln_1(x), causal, prefix, branches=branches, weigh=weigh)
    if keep is not None:
        x, mixed = x[rows, keep], None if mixed is None else mixed[rows, keep]
    x = x if mixed is None else x + block.ls_1(block.attn.out_proj(mixed))
    if half == "attention":
        return x
    if recompute and x.requires_grad:
        return checkpoint(_add_mlp, block, x, use_reentrant=False, preserve_rng_state=False)
    return _add_mlp(block, x)


def _add_mlp(block: Any, x: Tensor) -> Tensor:
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _run_adapted(
    block: AdaptedBlock, x: Tensor, causal: bool, prefix: Prefix | None, half: Half | None, weigh: Weigh | None
) -> Tensor:
    x = x if half == "mlp" else _run_adapted_attention(block, x, causal, prefix, weigh)
    if half == "attention":
        return x
    normed = block.ln_2(x)
    return x + _with_part(block, "mlp", normed, block.ls_2(block.mlp(normed)))


def _run_adapted_attention(
    block: AdaptedBlock, x: Tensor, causal: bool, prefix: Prefix | None, weigh: Weigh | None
) -> Tensor:
    parts, normed = block.parts, block.ln_1(x)
    if "front" in parts:
        own = parts["front"]()
        prefix = own if prefix is None else (torch.cat([own[0], prefix[0]], 1), torch.cat([own[1], prefix[1]], 1))
    more = parts["projections"](normed) if "projections" in parts else None
    output = block.ls_1(block.attn.out_proj(mix(block.attn, normed, causal, prefix, more, weigh=weigh)))
    return x + _with_part(block, "attention", normed, output)


def _with_part(block: Any, layer: str, normed: Tensor, output: Tensor) -> Tensor:
    """The output of a layer with what a part of the block adds to it."""
    if isinstance(block, AdaptedBlock) and layer in block.parts:
        return output + block.parts[layer](normed, output)
    return output


def mix(
    attention: Any,
    x: Tensor,
    causal: bool,
    prefix: Prefix | None,
    more: Tensor | None = None,
    branches: Branches | None = None,
    weigh: Weigh | None = None,
) -> Tensor:
    """Attended values (N, L, D), before the output projection, of normalised tokens; see `run_block`.

    `more` (N, L, 3 D) is added to queries, keys and values.
    """
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    projected = projected if more is None else projected + more
    if branches is None:
        return _attend(projected, attention.num_heads, causal, prefix, weigh)
    count, length = branches
    front, rest = projected.split([x.shape[1] - count * length, count * length], dim=1)
    _, k, v = (part[:, None].expand(-1, count, -1, -1).flatten(0, 1) for part in front.chunk(3, dim=-1))
    mixed = _attend(rest.unflatten(1, branches).flatten(0, 1), attention.num_heads, causal, (k, v))
    return torch.cat([_attend(front, attention.num_heads, causal, None), mixed.reshape(*rest.shape[:2], -1)], dim=1)


def _attend(projected: Tensor, heads: int, causal: bool, prefix: Prefix | None, weigh: Weigh | None = None) -> Tensor:
    """Attended values (N, L, D) of queries, keys and values (N, L, 3 D)."""
    q, k, v = projected.chunk(3, dim=-1)
    bias, mask = None if weigh is None else weigh(k), None
    if prefix is not None:
        k, v = (_in_front(given, own) for given, own in zip(prefix, (k, v), strict=True))
    before = k.shape[1] - q.shape[1]
    if causal and not (prefix is None and bias is None):
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril(before)
    if bias is not None:
        bias = F.pad(bias, (before, 0))[:, None, None].to(q.dtype)
        mask = bias if mask is None else torch.where(mask, bias, -torch.inf)
    q, k, v = (_heads(t, heads) for t in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal and mask is None)
    return mixed.transpose(1, 2).flatten(2)


def attend_to_self(block: Any, x: Tensor) -> Tensor:
    """What a plain block's attention would add to the residual stream (N, L, D) if every token saw itself alone."""
    attention = block.attn
    weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
    normed = block.ln_1(x)
    return _with_part(block, "attention", normed, attention.out_proj(F.linear(normed, weight, bias)))


def attend_across(block: Any, x: Tensor, others: Tensor) -> Tensor:
    """What a plain block's attention would add to the residual stream (N, L, D) if every token saw other rows alone.

    Args:
        block: whose first norm both pass.
        x: (N, L, D).
        others: (N, T, D), of any kind.
    """
    attention, tokens = block.attn, (block.ln_1(x), block.ln_1(others), block.ln_1(others))
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    projected = (F.linear(t, w, b) for t, w, b in zip(tokens, weights, biases, strict=True))
    q, k, v = (_heads(t, attention.num_heads) for t in projected)
    mixed = F.scaled_dot_product_attention(q, k, v)
    added: Tensor = block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
    return added


def run_block_naively(
    block: Any,
    x: Tensor,
    *,
    causal: bool = False,
    prefix: Prefix | None = None,
    half: Half | None = None,
    weigh: Weigh | None = None,
) -> Tensor:
    """What `run_block` computes, written out: three projections, materialised mask and weights, unfused QuickGELU.

    For tests and benchmarks: the form of neuraptic/cpe-clip @ 9309631, `CoLeLib/models/clip_models.py`.
    """
    _check_plain(block)
    if isinstance(block, AdaptedBlock):
        return _run_adapted(block, x, causal, prefix, half, weigh)
    x = x if half == "mlp" else _attend_naively(block, x, causal, prefix, weigh)
    if half == "attention":
        return x
    normed = block.ln_2(x)
    if type(block.mlp[1]) is not FusedQuickGELU:
        return x + block.ls_2(block.mlp(normed))
    hidden = block.mlp[0](normed)
    return x + block.ls_2(block.mlp[2](hidden * torch.sigmoid(1.702 * hidden)))


def _attend_naively(block: Any, x: Tensor, causal: bool, prefix: Prefix | None, weigh: Weigh | None) -> Tensor:
    attention, normed = block.attn, block.ln_1(x)
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (F.linear(normed, w, b) for w, b in zip(weights, biases, strict=True))
    bias = None if weigh is None else weigh(k)
    if prefix is not None:
        k, v = (_in_front(given, own) for given, own in zip(prefix, (k, v), strict=True))
    q = q * (x.shape[2] // attention.num_heads) ** -0.5
    q, k, v = (_heads(t, attention.num_heads) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2)
    if causal:
        mask = scores.new_full(scores.shape[-2:], torch.finfo(x.dtype).min).triu(1 + k.shape[2] - q.shape[2])
        scores = scores + mask.expand(x.shape[0], 1, -1, -1)
    if bias is not None:
        scores[..., k.shape[2] - x.shape[1] :] += bias[:, None, None]
    mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).contiguous().view(x.shape)
    added: Tensor = block.ls_1(attention.out_proj(mixed))
    return x + added


def _in_front(given: Tensor, own: Tensor) -> Tensor:
    return torch.cat([given.to(own.dtype).expand(own.shape[0], -1, -1), own], dim=1)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, D) as (N, heads, L, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
