"""What a model that does not change sees in training pictures: once and for all, or in every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everclip.types import Batch, Samples

Encode = Callable[[Tensor], Tensor]


def frozen_features(
    encode: Encode, images: Samples, extract: Callable[[Samples, Encode], tuple[Tensor, Tensor]], *, keep: bool
) -> Callable[[Batch], Tensor]:
    """A function from batches of `images` to their features (B, D), without gradient.

    Args:
        encode: from normalised pictures (B, 3, S, S); its weights must stay as they are.
        images: what the batches are drawn from.
        extract: see `everclip.methods.base.Extract`.
        keep: compute the features of all pictures now and look them up by `Batch.indices`; of use where a picture comes
            more than once, and right only where it is the same every time (`Session.recurs`).
    """
    if keep:
        rows, _ = extract(images, encode)
        return lambda batch: rows[batch.indices]

    @torch.no_grad()
    def see(batch: Batch) -> Tensor:
        return encode(batch.images)

    return see
