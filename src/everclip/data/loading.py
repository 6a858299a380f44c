"""Batches of pictures for training and evaluation, the same whatever the number of processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from everclip.types import Batch, ImageSet, Resize


class PreparedImages(Dataset[Batch]):
    """An `ImageSet` that gives whole batches of resized, not yet normalised pictures (uint8)."""

    def __init__(self, images: ImageSet, resize: Resize) -> None:
        self._images = images
        self._resize = resize
        self._labels = torch.from_numpy(images.labels)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Called by `DataLoader` with all indices of a batch."""
        rows = torch.as_tensor(indices)
        return Batch(self._images.images(indices, self._resize), self._labels[rows], rows)


class SeededBatches(Sampler[list[int]]):
    """Shuffled batches; the order of an epoch depends on (key, epoch) alone.

    Every process takes its part of each global batch, so the global batches are the same for any number of processes.

    Args:
        length: number of pictures.
        batch_size: pictures per step over all processes.
        key: numbers that seed the order.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, length: int, batch_size: int, key: Sequence[int], rank: int = 0, world_size: int = 1) -> None:
        self._length, self._batch_size, self._key = length, batch_size, tuple(key)
        self._rank, self._world_size = rank, world_size
        self._epoch = 0

    @property
    def sampler(self) -> SeededBatches:
        """Lightning looks here for the sampler whose `set_epoch` it calls before every epoch."""
        return self

    def __len__(self) -> int:
        return math.ceil(self._length / self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self._epoch = epoch

    def weight(self, index: int) -> float:
        """Factor of this process's mean loss in batch `index` that makes the mean over processes the batch's mean."""
        whole = min(self._batch_size, self._length - index * self._batch_size)
        share = len(range(self._rank, whole, self._world_size))
        return share * self._world_size / whole

    def __iter__(self) -> Iterator[list[int]]:
        stream = np.random.Generator(np.random.PCG64([*self._key, self._epoch]))
        order = np.argsort(stream.random(self._length))
        for start in range(0, self._length, self._batch_size):
            batch = order[start : start + self._batch_size]
            # A process without a picture of a small last batch computes on the first one, with weight 0.
            yield (batch[self._rank :: self._world_size] if self._rank < len(batch) else batch[:1]).tolist()


class OrderedBatches(Sampler[list[int]]):
    """Every `world_size`-th picture in order, none twice: for evaluation and feature passes."""

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._indices = range(rank, length, world_size)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._indices) / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self._indices), self._batch_size):
            yield list(self._indices[start : start + self._batch_size])


def make_loader(images: ImageSet, resize: Resize, batches: Sampler[list[int]], num_workers: int) -> DataLoader[Batch]:
    """A loader of `Batch`es with uint8 pictures, in the order of `batches`."""
    return DataLoader(
        PreparedImages(images, resize),
        batch_sampler=batches,
        collate_fn=_identity,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


def _identity(batch: Any) -> Any:
    return batch
