"""Passes with gradients in pieces, of which nothing but the features is kept."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from everclip.backbones.insertion import TokenEdit

Encode = Callable[[Tensor, TokenEdit | None], Tensor]


def in_pieces(encode: Encode, rows: Tensor, edit: TokenEdit | None, pieces: int) -> Tensor:
    """What `encode` makes of all rows (N, ...) with an edit, see `Backbone.pieces`; any other edit takes them at once.

    Every process makes as many passes, however many rows it has.
    """
    alike = edit is None or edit.alike
    if pieces == 1 or not alike or not torch.is_grad_enabled():
        return encode(rows, edit)

    def encode_anew(piece: Tensor) -> Tensor:  # an edit is made for one pass
        return encode(piece if len(piece) else rows[:1], copy(edit))[: len(piece)]

    return torch.cat([checkpoint(encode_anew, piece, use_reentrant=False) for piece in rows.tensor_split(pieces)])
