"""Rows of a batch from all processes, for losses that compare the pictures of a batch with each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Equal shares (N, ...) of all processes one after the other; the gradient of a row is summed over processes."""

    @staticmethod
    def forward(context: Any, share: Tensor) -> Tensor:
        context.rows = len(share)
        shares = [torch.empty_like(share) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank() * context.rows :][: context.rows]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def global_rows(indices: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """The rows of the whole batch, where several processes share it; the given ones on a single process.

    Differentiable: if every process computes the same loss from them, the mean over processes of the gradients of the
    weights (what data-parallel training takes) is the gradient that one process would get from the whole batch.

    Args:
        indices: (B,) positions of the pictures in their data set, as in `Batch.indices`. A picture counts once: a
            process that has none of a small last batch computes on one that another process has.
        rows: each (B, ...) floating point, or without gradient; trailing shapes agree between processes, B need not.
    """
    if not _several():
        return rows
    size = torch.tensor(len(indices), device=indices.device)
    dist.all_reduce(size, op=dist.ReduceOp.MAX)
    missing = int(size) - len(indices)
    everywhere = _shares(torch.cat([indices, indices.new_full((missing,), -1)]))
    kept, seen = [], {-1}
    for position, index in enumerate(everywhere.tolist()):
        if index not in seen:
            kept.append(position)
            seen.add(index)
    chosen = torch.tensor(kept, device=indices.device)
    padded = (torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in rows)
    return tuple(_shares(part)[chosen] for part in padded)


def _shares(share: Tensor) -> Tensor:
    gathered: Tensor = _Gather.apply(share)
    return gathered


def global_sum(value: Tensor) -> Tensor:
    """The sum over all processes of a tensor without gradient; the given one on a single process."""
    if not _several():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total
