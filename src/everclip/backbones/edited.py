"""Passes through the blocks of a tower with a method's edit."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from everclip.backbones.blocks import Branches, run_block_naively
from everclip.backbones.insertion import TokenEdit

RECOMPUTE_FROM = 2**18  # values in the residual stream of an edited text pass


def run_edited(
    blocks: Any,
    x: Tensor,
    edit: TokenEdit,
    readout: Tensor,
    *,
    run: Callable[..., Tensor],
    causal: bool,
    branches: Branches | None = None,
) -> Tensor:
    """The residual stream (N, K, D) at some positions of each row after all blocks.

    Args:
        blocks: the tower's.
        x: (N, L, D).
        edit: applied at every block.
        readout: (N or 1, K) positions after the last edit, counted from the end where negative.
        run: computes a block: `run_block`, compiled perhaps, or `run_block_naively`.
        causal: a token sees none behind it.
        branches: see `run_block`.
    """
    naive = run is run_block_naively
    whole = naive or edit.watched
    attention: dict[str, Any] = {"causal": causal} if naive else {"causal": causal, "branches": branches}
    mlp: dict[str, Any] = {}
    for layer, block in enumerate(blocks):
        x = edit.before(layer, x)
        if not naive:  # after the last block, no other position is read
            keep = readout % x.shape[1] if layer == len(blocks) - 1 and not whole else None
            # Class prompts are the rows that a step has many of; below some size, memory is no matter.
            mlp = {"keep": keep, "recompute": causal and x.numel() > RECOMPUTE_FROM}
        if edit.halved:
            x = run(block, x, prefix=edit.prefix(layer), **attention, half="attention", weigh=edit.weigh)
            x = edit.between(layer, x)
            x = run(block, x, **mlp, half="mlp")
        else:
            x = run(block, x, prefix=edit.prefix(layer), **attention, **mlp)
    if edit.watched:
        edit.after(x)
    return x[torch.arange(x.shape[0], device=x.device)[:, None], readout] if whole else x


def checkpointed(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Computes a block with `run`, of which nothing but its input is kept for the backward pass."""

    @parametrize.cached()  # once more where it is computed again
    def computed(*args: Any, **kwargs: Any) -> Tensor:
        return run(*args, **kwargs)

    @wraps(run)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return run(*args, **kwargs)
        result: Tensor = checkpoint(computed, *args, use_reentrant=False, **kwargs)
        return result

    return call
