"""Passes with gradients in pieces, of which nothing but what comes out is kept."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit

Encode = Callable[[Tensor, TokenEdit | None], Tensor]


def in_pieces(backbone: Backbone, compute: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
    """What `compute` makes of all rows (N, ...) of some tensors, row by row, see `Backbone.pieces`.

    For whatever else than the backbone itself a step is dear for: passes within divide nothing more. Every process
    makes as many passes, however many rows it has.
    """
    pieces = backbone.pieces
    if pieces == 1 or not torch.is_grad_enabled():
        return compute(*rows)
    backbone.divided = True

    def compute_anew(*own: Tensor) -> tuple[Tensor, ...]:
        count = len(own[0])
        backbone.pieces = 1
        try:
            found = compute(*(own if count else [tensor[:1] for tensor in rows]))
        finally:
            backbone.pieces = pieces
        return tuple(tensor[:count] for tensor in found)

    shares = zip(*(tensor.tensor_split(pieces) for tensor in rows), strict=True)
    found = [checkpoint(compute_anew, *share, use_reentrant=False) for share in shares]
    return tuple(map(torch.cat, zip(*found, strict=True)))


def encoded(backbone: Backbone, encode: Encode, rows: Tensor, edit: TokenEdit | None = None) -> Tensor:
    """What a tower makes of rows (N, ...) `in_pieces`, with an edit that does the same to all; at once with others."""
    if edit is not None and not edit.alike:
        return encode(rows, edit)
    (features,) = in_pieces(backbone, lambda own: (encode(own, copy(edit)),), rows)  # an edit is made for one pass
    return features
