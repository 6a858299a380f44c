"""What the principal components of a batch of features keep of them.

Source: arXiv 2403.15378, section 3.3 (beichenzbc/Long-CLIP @ 3966af9, model/model_longclip.py, `PCA`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _LowRank(torch.autograd.Function):
    """The nearest matrix of a rank to one (B, E) with B <= E.

    Its gradient is written out: that of the singular vectors is not finite where two singular values are equal, as all
    that are zero, though the matrix itself changes smoothly unless a kept one equals one that is left out.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor, rank: int) -> Tensor:
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        context.save_for_backward(rows, left, values)
        context.rank = rank
        return left[:, :rank] @ (left[:, :rank].T @ rows)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rows, left, values = context.saved_tensors
        (gradient,), rank = gradients, context.rank
        kept, rest = left[:, :rank], left[:, rank:]
        gaps = values[:rank] ** 2 - values[rank:, None] ** 2
        noise = (4 * torch.finfo(values.dtype).eps * values[0]) ** 2
        across = rest.T @ (gradient @ rows.T + rows @ gradient.T) @ kept
        turned = rest @ (across / gaps.clamp(min=noise.clamp(min=torch.finfo(values.dtype).tiny))) @ kept.T
        return kept @ (kept.T @ gradient) + (turned + turned.T) @ rows, None


def reconstructed(features: Tensor, components: int) -> Tensor:
    """Features (B, E) as their mean and their `components` principal components give them back; not of length 1.

    Up to `components` + 1 features come back as they are.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        mean = features.mean(dim=0)
        rows = features - mean
        wide = rows.shape[0] <= rows.shape[1]
        nearest: Tensor = _LowRank.apply(rows if wide else rows.T, components)
        return mean + (nearest if wide else nearest.T)
