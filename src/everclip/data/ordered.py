"""Pictures with a value each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from everclip.digest import json_sha256
from everclip.errors import DataError
from everclip.objectives.ordering import VALUE
from everclip.types import Batch, Draw, Indices, Prepare, Samples


class OrderedImages(Samples):
    """Pictures and the values that they are ordered by, those of one class among each other.

    Args:
        pictures: whose labels say the class.
        values: (N,) finite.
        weights: see `Samples`.

    Raises:
        DataError: another number of values or weights than pictures, or one that is not finite.
    """

    def __init__(
        self, pictures: Samples, values: NDArray[np.float64], weights: NDArray[np.float64] | None = None
    ) -> None:
        for name, numbers in (("values", values), ("weights", values if weights is None else weights)):
            if len(numbers) != len(pictures):
                raise DataError(f"{len(pictures)} pictures, but {len(numbers)} {name}")
            if not np.isfinite(numbers).all():
                raise DataError(f"the {name} of pictures must be finite numbers")
        self._pictures, self._values, self.weights = pictures, values, weights
        self.labels, self.files = pictures.labels, pictures.files

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        read = self._pictures.read(indices, prepare, draw)
        values = torch.from_numpy(self._values[np.asarray(indices, dtype=np.int64)])
        return replace(self.batch(read.images, indices), targets={VALUE: values.float()})

    def subset(self, indices: Sequence[int] | Indices) -> OrderedImages:
        rows = np.asarray(indices, dtype=np.int64)
        weights = None if self.weights is None else self.weights[rows]
        return OrderedImages(self._pictures.subset(indices), self._values[rows], weights)

    def shown(self) -> Indices:
        return self._pictures.shown()

    def fingerprint(self) -> str:
        weights = None if self.weights is None else self.weights.tolist()
        return json_sha256([self._pictures.fingerprint(), self._values.tolist(), weights])

    def version(self) -> str:
        return self._pictures.version()

    @property
    def pictures(self) -> Samples:
        return self._pictures

    def with_pictures(self, pictures: Samples) -> OrderedImages:
        return OrderedImages(pictures, self._values, self.weights)
