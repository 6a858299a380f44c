"""Penalties on vectors that are not orthonormal."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonality(rows: Tensor) -> Tensor:
    """Mean squared distance (scalar) of the dot products of rows (G, K, W) from the identity, summed over G.

    Source: arXiv 2211.13218; `ortho_penalty` of GT-RIPL/CODA-Prompt @ 6417d4f.
    """
    identity = torch.eye(rows.shape[1], device=rows.device)
    return (rows @ rows.transpose(1, 2) - identity).square().mean(dim=(1, 2)).sum()
