"""Batches of pictures for training and evaluation, the same whatever the number of processes and micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from everclip.errors import EverclipError, LoaderError
from everclip.types import Batch, Draw, Draws, Indices, Prepare, Samples, View


@dataclass(frozen=True)
class Request:
    """What a loader is asked for.

    Attributes:
        indices: positions of the samples.
        draw: decides what is random about them.
        auxiliary: the same of the auxiliary samples, where there are any.
    """

    indices: list[int]
    draw: Draw | None = None
    auxiliary: Request | None = None


class PreparedSamples(Dataset[Any]):
    """`Samples` that give whole batches of prepared, not yet normalised pictures (uint8).

    In a loader process an error that a user can cause is returned, not raised, so that it arrives as it is.
    """

    def __init__(self, samples: Samples, prepare: Prepare, auxiliary: Samples | None = None) -> None:
        self._samples = samples
        self._auxiliary = auxiliary
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Batch | EverclipError:
        return self.__getitems__(Request([index]))

    def __getitems__(self, request: Request) -> Batch | EverclipError:
        """Called by `DataLoader` with what its batch sampler yields."""
        try:
            batch = self._read(self._samples, request)
            if self._auxiliary is None or request.auxiliary is None:
                return batch
            return replace(batch, auxiliary=self._read(self._auxiliary, request.auxiliary))
        except EverclipError as error:
            if get_worker_info() is None:
                raise
            return error

    def _read(self, samples: Samples, request: Request) -> Batch:
        if request.indices:
            return samples.read(request.indices, self._prepare, request.draw)
        return samples.read([0], self._prepare).first(0)  # the last batch of some processes is empty


class SeededBatches(Sampler[list[int]]):
    """The batches of a phase: one stream of steps over passes that are shuffled by (key, epoch) alone.

    Every process takes its part of each global batch, and so does every micro-batch, so the global batches are the same
    for any number of either, and a stream may start at any step.

    Args:
        length: number of pictures.
        batch_size: pictures per step over all processes.
        key: numbers that seed the order.
        steps: where the stream ends; an epoch has `steps_per_epoch` of them.
        start: the first step.
        rank: of this process.
        world_size: number of processes.
        parts: micro-batches per step.
        draws: gives the batches instead of shuffled passes; each then depends on (key, step) alone.
        view: how pictures look; None: as in evaluation.
        views: draws of each picture, which passes show in turn, unless there are `draws`; None: another in every pass.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        key: Sequence[int],
        *,
        steps: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        draws: Draws | None = None,
        view: View | None = None,
        views: int | None = None,
    ) -> None:
        self._draws, self._view, self._views = draws, view, views
        self._length = draws.steps * batch_size if draws else length
        self._batch_size, self._key = batch_size, tuple(key)
        self._steps, self._start = steps, start
        self._rank, self._world_size, self._parts = rank, world_size, parts
        self.steps_per_epoch = math.ceil(self._length / batch_size)

    def __len__(self) -> int:
        return (self._steps - self._start) * self._parts

    def weight(self, index: int) -> float:
        """Factor of the mean loss over micro-batch `index` of the stream.

        With it, the mean over processes of the sum over a step's micro-batches is the mean over the global batch.
        """
        step, part = divmod(index, self._parts)
        position = (self._start + step) % self.steps_per_epoch * self._batch_size
        whole = min(self._batch_size, self._length - position)
        share = len(range(self._rank + part * self._world_size, whole, self._world_size * self._parts))
        return share * self._world_size / whole

    def ends_pass(self, step: int) -> bool:
        """Whether a step is the last of a pass over the pictures, or of the stream."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self._steps

    def draw(self, index: int) -> Draw:
        """What is random about the samples of micro-batch `index` of the stream: other in each pass, or in `views`."""
        step = self._start + index // self._parts
        if self._draws:
            return Draw((*self._key, step), view=self._view)
        epoch = step // self.steps_per_epoch
        return Draw((*self._key, epoch if self._views is None else epoch % self._views), view=self._view)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._drawn(self._draws) if self._draws else self._shuffled():
            for part in range(self._parts):
                first = self._rank + part * self._world_size
                # One without a picture of a small last batch computes on the first one, with weight 0.
                share = batch[first :: self._world_size * self._parts] if first < len(batch) else batch[:1]
                yield share.tolist()

    def _shuffled(self) -> Iterator[Indices]:
        order: Indices = np.empty(0, dtype=np.int64)
        for step in range(self._start, self._steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == self._start:
                order = np.argsort(self._stream(epoch).random(self._length))
            yield order[position * self._batch_size : (position + 1) * self._batch_size]

    def _drawn(self, draws: Draws) -> Iterator[Indices]:
        for step in range(self._start, self._steps):
            yield draws(self._stream(step), self._batch_size)

    def _stream(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([*self._key, number]))


class Requests(Sampler[Request]):
    """What a loader is asked for, one batch after the other.

    Args:
        batches: positions of the samples.
        auxiliary: a stream of equally many batches of the auxiliary samples, None without any.
    """

    def __init__(self, batches: SeededBatches | OrderedBatches, auxiliary: SeededBatches | None = None) -> None:
        self._batches, self._auxiliary = batches, auxiliary

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Request]:
        beside = self._auxiliary
        others = iter(beside) if beside else None
        for number, own in enumerate(self._batches):
            second = None if others is None or beside is None else Request(next(others), beside.draw(number))
            yield Request(own, self._batches.draw(number), second)


class OrderedBatches(Sampler[list[int]]):
    """Every `world_size`-th picture in order, none twice: for evaluation and feature passes.

    All processes have equally many batches; the last one of some may be empty.

    Args:
        length: number of pictures.
        batch_size: of one process.
        rank: of this process.
        world_size: number of processes.
        shown: what is random about them; None: nothing.
    """

    def __init__(
        self, length: int, batch_size: int, rank: int = 0, world_size: int = 1, shown: Draw | None = None
    ) -> None:
        self._indices = range(rank, length, world_size)
        self._batch_size = batch_size
        self._largest_share = math.ceil(length / world_size)
        self._shown = shown

    def __len__(self) -> int:
        return math.ceil(self._largest_share / self._batch_size)

    def draw(self, index: int) -> Draw | None:
        """What is random about the samples of a batch."""
        return self._shown

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self._largest_share, self._batch_size):
            yield list(self._indices[start : start + self._batch_size])


class BatchLoader(DataLoader[Any]):
    """A loader of `Batch`es; raises what went wrong in its processes as an error for people.

    Raises:
        DataError: a picture cannot be read.
        LoaderError: a loader process was killed.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator instead of DataLoader's own iterator
        try:
            for batch in super().__iter__():
                if isinstance(batch, EverclipError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise LoaderError(
                f"a loader process died ({str(error).splitlines()[0]}); the system kills processes when memory runs "
                "out: lower data.num_workers or the batch size; the same command goes on"
            ) from error


def make_loader(
    samples: Samples,
    prepare: Prepare,
    batches: SeededBatches | OrderedBatches,
    num_workers: int,
    auxiliary: tuple[Samples, SeededBatches] | None = None,
) -> BatchLoader:
    """A loader of `Batch`es with uint8 pictures, in the order of `batches`, with a stream of other samples beside."""
    others, stream = auxiliary or (None, None)
    return BatchLoader(
        PreparedSamples(samples, prepare, others),
        batch_sampler=Requests(batches, stream),  # type: ignore[arg-type]  # read by `PreparedSamples`
        collate_fn=_identity,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


def _identity(batch: Any) -> Any:
    return batch
