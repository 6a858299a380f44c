"""What a session is trained on or a task is judged by, and batches of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everclip.digest import json_sha256
from everclip.errors import DataAccessError
from everclip.types.classes import ClassSet
from everclip.types.described import Described

Indices = NDArray[np.int64]
Prepare = Callable[[Image.Image], Tensor]
NO_CLASS = -1
READING, FRAMES = 2, 3  # numbers for what is read and which frames, apart from those for how it looks


def in_views(images: Tensor) -> bool:
    """Whether samples come in several views: clips (B, V, T, 3, S, S), or features (B, V, D) that stand for them."""
    return images.ndim in (3, 6)


def as_clips(images: Tensor) -> Tensor:
    """Clips (B, T, 3, S, S) as they are, pictures (B, 3, S, S) as clips of one frame."""
    return images if images.ndim == 5 else images[:, None]


class View(Protocol):
    """How a picture looks in training."""

    @property
    def whole(self) -> bool:
        """Whether a picture may be prepared before it is shown: then only `prepare` looks at `image`."""

    @property
    def unmirrored(self) -> View:
        """The same without mirroring."""

    def __call__(self, image: Image.Image, prepare: Prepare, stream: np.random.Generator) -> Tensor:
        """What the backbone gets (3, S, S) uint8 of a picture, by random numbers that are its own."""


@dataclass(frozen=True)
class Draw:
    """Random numbers of samples as they are read for training: they follow from a key and a sample's number alone.

    Attributes:
        key: seeds the numbers: run, session, phase, pass.
        offset: number of the set's first sample, where it is part of a larger one.
        view: how pictures look; None: as in evaluation.
    """

    key: tuple[int, ...]
    offset: int = 0
    view: View | None = None

    def stream(self, position: int, use: int = READING) -> np.random.Generator:
        """The random numbers of the sample at a position, others for each use."""
        return np.random.Generator(np.random.PCG64([*self.key, use, self.offset + position]))

    def showing(self, prepare: Prepare, position: int) -> Prepare:
        """What makes of a picture of the sample at a position what training sees; always the same."""
        view = self.view
        if view is None:
            return prepare
        seed = [*self.key, self.offset + position]
        return lambda image: view(image, prepare, np.random.Generator(np.random.PCG64(seed)))

    @property
    def unmirrored(self) -> Draw:
        """The same without mirroring, for pictures that would then show something else."""
        return self if self.view is None else replace(self, view=self.view.unmirrored)

    def shifted(self, offset: int) -> Draw:
        """The same for a part whose first sample is number `offset`."""
        return replace(self, offset=self.offset + offset)


class Samples(ABC):
    """What is trained on or judged by, as it lies on disk or in memory, before any backbone's preprocessing.

    Attributes:
        labels: (N,) global class ids, `NO_CLASS` for a sample without one.
        texts: the texts of every sample (its captions), empty for samples without any.
        described: what is where in the pictures and what the texts speak of; None where that is not known.
        weights: (N,) how often a sample comes beside others of its class, where a method draws batches by it; None: all
            alike.
        num_frames: pictures of a sample that is a clip, None for single pictures.
        drawn: whether training shows other pictures of a sample every time, whatever the view.
        files: what the samples are read from, and the lists that name it, as far as that are files.
    """

    labels: Indices
    texts: tuple[tuple[str, ...], ...] = ()
    described: Described | None = None
    weights: NDArray[np.float64] | None = None
    num_frames: int | None = None
    drawn: bool = False
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        """The samples at `indices` as one batch.

        Args:
            indices: B positions.
            prepare: a picture as the backbone wants it, (3, S, S) uint8.
            draw: decides what is random about a sample in training (which caption, which frames, which part of a
                picture); None in evaluation, where it is the same every time (first caption, middle frames).
        """

    @abstractmethod
    def subset(self, indices: Sequence[int] | Indices) -> Samples:
        """These samples, in this order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what identifies the samples, without decoding pictures."""

    @abstractmethod
    def version(self) -> str:
        """Hex digest that changes whenever the samples do; unlike the fingerprint, with times of files as well."""

    @property
    def pictures(self) -> Samples:
        """The pictures alone, where texts or targets are added to those of another set."""
        return self

    def with_pictures(self, pictures: Samples) -> Samples:
        """The same samples with their `pictures` from elsewhere."""
        return pictures

    def shown(self) -> Indices:
        """(N,) numbers of the pictures, equal where samples show the same one; all differ where nothing tells."""
        return np.arange(len(self))

    def indices_of(self, classes: ClassSet) -> Indices:
        """Where the samples of these classes are, in their order."""
        return np.flatnonzero(np.isin(self.labels, classes.ids))

    def batch(self, images: Tensor, indices: Sequence[int]) -> Batch:
        """A batch of prepared pictures (B, ...) of these samples, with the labels that belong to them."""
        rows = np.asarray(indices, dtype=np.int64)
        return Batch(images, torch.from_numpy(self.labels[rows]), torch.from_numpy(rows))


class SessionView(Samples):
    """Samples of one session as a method sees them; closed, with all its subsets, when the session ends.

    Args:
        source: the pictures.
        session: index, for the message.
    """

    def __init__(self, source: Samples, session: int) -> None:
        self._source = source
        self._session = session
        self._closed: list[bool] = []  # shared with the subsets; closed once it holds anything
        self.labels, self.texts, self.num_frames = source.labels, source.texts, source.num_frames
        self.files, self.weights, self.drawn = source.files, source.weights, source.drawn

    @property
    def pictures(self) -> Samples:
        return self if self._source.pictures is self._source else self.beside(self._source.pictures)

    def with_pictures(self, pictures: Samples) -> SessionView:
        return self.beside(self._source.with_pictures(pictures))

    def close(self) -> None:
        """Ends access."""
        self._closed.append(True)

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        if self._closed:
            raise DataAccessError(
                f"pictures of session {self._session} were read after it ended; a method that keeps pictures must "
                "declare sees = 'exemplars' and name them in kept(), one that trains on everything so far sees = 'all'"
            )
        return self._source.read(indices, prepare, draw)

    def subset(self, indices: Sequence[int] | Indices) -> SessionView:
        return self.beside(self._source.subset(indices))

    def shown(self) -> Indices:
        return self._source.shown()

    def beside(self, source: Samples) -> SessionView:
        """A view of other samples of the session, closed together with this one."""
        view = SessionView(source, self._session)
        view._closed = self._closed
        return view

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def version(self) -> str:
        return self._source.version()


@dataclass(frozen=True)
class Reference:
    """Pictures and texts from outside the sequence, on which a method compares two models; they need not be paired.

    Attributes:
        images: their labels mean nothing.
        texts: captions or other sentences.
        names: what each picture shows, as far as its folder tells; empty where nothing does.
    """

    images: Samples = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)

    def fingerprint(self) -> str:
        """Hex digest of what identifies pictures and texts."""
        return json_sha256([self.images.fingerprint(), self.texts])


@dataclass(frozen=True)
class Batch:
    """Samples that go through a model together.

    Attributes:
        images: (B, 3, S, S), or clips (B, T, 3, S, S), of which some evaluators read several views (B, V, T, 3, S, S);
            uint8 as read, float32 and normalised in `Method.loss`.
        labels: (B,) global class ids, `NO_CLASS` where a sample has none.
        indices: (B,) positions in the data set of the phase.
        auxiliary: a batch of the phase's auxiliary samples, None if it has none.
        texts: B texts, None for samples without any.
        targets: what else is to be learnt or judged, by name: `mask` (B, H, W) long of global class ids or `NO_CLASS`;
            `value` (B,) that pictures of a class are ordered by.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    auxiliary: Batch | None = None
    texts: tuple[str, ...] | None = None
    targets: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def union(parts: Sequence[Batch], order: Sequence[int]) -> Batch:
        """The samples of several batches of one kind in an order: that of their positions one after the other."""
        rows = torch.tensor(order, dtype=torch.long)
        texts = [text for part in parts for text in part.texts or ()]
        names = parts[0].targets or {}
        joined = {n: torch.cat([part.targets[n] for part in parts if part.targets is not None])[rows] for n in names}
        images, labels, indices = (
            torch.cat([getattr(part, name) for part in parts])[rows] for name in ("images", "labels", "indices")
        )
        return Batch(
            images,
            labels,
            indices,
            texts=tuple(texts[row] for row in order) if texts else None,
            targets=joined or None,
        )

    def first(self, count: int) -> Batch:
        """The first samples of the batch."""
        texts = None if self.texts is None else self.texts[:count]
        return replace(self.map(lambda tensor: tensor[:count]), texts=texts)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        return replace(
            self,
            images=change(self.images),
            labels=change(self.labels),
            indices=change(self.indices),
            auxiliary=None if self.auxiliary is None else self.auxiliary.map(change),
            targets=None if self.targets is None else {name: change(value) for name, value in self.targets.items()},
        )

    def with_images(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with its pictures changed, the auxiliary ones too."""
        auxiliary = None if self.auxiliary is None else self.auxiliary.with_images(change)
        return replace(self, images=change(self.images), auxiliary=auxiliary)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; `DataLoader` asks for it."""
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; Lightning moves anything that has this method."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
