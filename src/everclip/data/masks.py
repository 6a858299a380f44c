"""Pictures with a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from everclip.digest import json_sha256
from everclip.errors import DataError
from everclip.types import NO_CLASS, Batch, Draw, Indices, Prepare, Samples


class MaskedImages(Samples):
    """Pictures and their masks, which are resized with neither of them cropped.

    Args:
        pictures: whose labels mean nothing here.
        masks: (N, H, W) global class ids, `NO_CLASS` where a pixel has none; the fingerprint holds that of `pictures`
            alone, which must identify the masks too.

    Raises:
        DataError: another number of masks than pictures.
    """

    def __init__(self, pictures: Samples, masks: NDArray[np.int64]) -> None:
        if len(masks) != len(pictures):
            raise DataError(f"{len(pictures)} pictures, but {len(masks)} masks")
        self._pictures, self._masks, self.files = pictures, masks, pictures.files
        self.labels = np.full(len(pictures), NO_CLASS, dtype=np.int64)

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        pictures = self._pictures.read(indices, prepare, draw)
        masks = torch.from_numpy(self._masks[np.asarray(indices, dtype=np.int64)])
        return replace(self.batch(pictures.images, indices), targets={"mask": masks})

    def subset(self, indices: Sequence[int] | Indices) -> MaskedImages:
        return MaskedImages(self._pictures.subset(indices), self._masks[np.asarray(indices, dtype=np.int64)])

    def fingerprint(self) -> str:
        return json_sha256(["masks", self._pictures.fingerprint()])

    def version(self) -> str:
        return self._pictures.version()

    @property
    def pictures(self) -> Samples:
        return self._pictures

    def with_pictures(self, pictures: Samples) -> MaskedImages:
        return MaskedImages(pictures, self._masks)
