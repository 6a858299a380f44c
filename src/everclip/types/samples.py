"""What a session is trained on or a task is judged by, and batches of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everclip.errors import DataAccessError
from everclip.types.classes import ClassSet

Indices = NDArray[np.int64]
Resize = Callable[[Image.Image], Tensor]


class ImageSet(ABC):
    """Labelled pictures as they lie on disk or in memory, before any backbone's preprocessing.

    Attributes:
        labels: (N,) global class ids.
    """

    labels: Indices

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, indices: Sequence[int], resize: Resize) -> Tensor:
        """The pictures at `indices` as the backbone wants them, (len(indices), 3, S, S) uint8."""

    @abstractmethod
    def subset(self, indices: Sequence[int] | Indices) -> ImageSet:
        """These pictures, in this order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what identifies the pictures and labels, without decoding them."""

    def indices_of(self, classes: ClassSet) -> Indices:
        """Where the pictures of these classes are, in their order."""
        return np.flatnonzero(np.isin(self.labels, classes.ids))


class SessionView(ImageSet):
    """The training pictures of one session as a method sees them; closed, with all its subsets, when the session ends.

    Args:
        source: the pictures.
        session: index, for the message.
    """

    def __init__(self, source: ImageSet, session: int) -> None:
        self._source = source
        self._session = session
        self._closed: list[bool] = []  # shared with the subsets; closed once it holds anything
        self.labels = source.labels

    def close(self) -> None:
        """Ends access."""
        self._closed.append(True)

    def images(self, indices: Sequence[int], resize: Resize) -> Tensor:
        if self._closed:
            raise DataAccessError(
                f"pictures of session {self._session} were read after it ended; a method that keeps pictures must "
                "declare sees = 'exemplars' and name them in kept(), one that trains on everything so far sees = 'all'"
            )
        return self._source.images(indices, resize)

    def subset(self, indices: Sequence[int] | Indices) -> SessionView:
        view = SessionView(self._source.subset(indices), self._session)
        view._closed = self._closed
        return view

    def fingerprint(self) -> str:
        return self._source.fingerprint()


@dataclass(frozen=True)
class Reference:
    """Pictures and texts from outside the sequence, on which a method compares two models; they need not be paired.

    Attributes:
        images: their labels mean nothing.
        texts: captions or other sentences.
    """

    images: ImageSet = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Batch:
    """What `Method.loss` gets.

    Attributes:
        images: (B, 3, S, S) float32, normalised for the backbone.
        labels: (B,) global class ids.
        indices: (B,) positions in the data set of the phase.
        auxiliary: a batch of the phase's auxiliary pictures, None if it has none.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    auxiliary: Batch | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        auxiliary = None if self.auxiliary is None else self.auxiliary.map(change)
        return Batch(change(self.images), change(self.labels), change(self.indices), auxiliary)

    def with_images(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with its pictures changed, the auxiliary ones too."""
        auxiliary = None if self.auxiliary is None else self.auxiliary.with_images(change)
        return Batch(change(self.images), self.labels, self.indices, auxiliary)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; `DataLoader` asks for it."""
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; Lightning moves anything that has this method."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
