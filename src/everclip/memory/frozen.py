"""What a model that does not change sees in training pictures, or reads: once and for all, or in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from everclip.types import Batch, Draw, Indices, Prepare, Samples

Encode = Callable[[Tensor], Tensor]
Extract = Callable[[Samples, Encode], tuple[Tensor, Tensor]]  # see `everclip.methods.base.Extract`


def frozen_features(encode: Encode, images: Samples, extract: Extract, *, keep: bool) -> Callable[[Batch], Tensor]:
    """A function from batches of `images` to their features (B, D), without gradient.

    Args:
        encode: from normalised pictures (B, 3, S, S); its weights must stay as they are.
        images: what the batches are drawn from.
        extract: a pass over pictures.
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


def frozen_captions(
    encode: Callable[[Sequence[Sequence[str]]], Tensor], pairs: Samples, extract: Extract, *, keep: bool
) -> Callable[[Batch], Tensor]:
    """A function from batches of `pairs` to features (B, K, E) of all texts of their pictures, without gradient.

    Args:
        encode: from the texts of B pictures; its weights must stay as they are.
        pairs: what the batches are drawn from.
        extract: a pass over pictures.
        keep: compute the features of all pictures now, each by one process, and look them up; of use where a picture
            comes more than once. They stay on the device.
    """

    @torch.no_grad()
    def read(numbers: Tensor) -> Tensor:
        return encode([pairs.texts[number] for number in numbers.flatten().long().tolist()])

    if keep:
        rows, _ = extract(_Numbers(pairs), read)
        return lambda batch: rows[batch.indices]
    return lambda batch: read(batch.indices)


class _Numbers(Samples):
    """The position of each sample (1,) in the place of its picture."""

    def __init__(self, source: Samples) -> None:
        self._source, self.labels = source, source.labels

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        return self.batch(torch.tensor(indices, dtype=torch.float32)[:, None], indices)  # integers would be pixels

    def subset(self, indices: Sequence[int] | Indices) -> Samples:
        raise NotImplementedError("numbers of samples are read whole")

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def version(self) -> str:
        return self._source.version()
