"""Clips that lie in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from everclip.data.images import prepare_pixels
from everclip.digest import json_sha256, tensor_sha256
from everclip.errors import DataError
from everclip.types import Batch, Draw, Indices, Prepare, Samples


class ArrayClips(Samples):
    """Clips of one size and length in memory; every frame is shown.

    Args:
        pixels: (N, T, H, W, 3) uint8, RGB.
        labels: (N,) global class ids.
        identity: what the clips were made from; part of the fingerprint instead of the pixels.

    Raises:
        DataError: another number of labels than clips.
    """

    def __init__(self, pixels: NDArray[np.uint8], labels: Indices, identity: str) -> None:
        if len(pixels) != len(labels):
            raise DataError(f"{len(pixels)} clips but {len(labels)} labels")
        self._pixels = pixels
        self.labels = labels
        self.num_frames = pixels.shape[1]
        self._identity = identity
        self._rows: Indices = np.arange(len(labels))

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        chosen = self._pixels[self._rows[np.asarray(indices, dtype=np.int64)]]
        samples = np.repeat(np.asarray(indices, dtype=np.int64), chosen.shape[1]).tolist()
        frames = prepare_pixels(chosen.reshape(-1, *chosen.shape[2:]), prepare, samples, draw)
        return self.batch(frames.unflatten(0, chosen.shape[:2]), indices)

    def subset(self, indices: Sequence[int] | Indices) -> ArrayClips:
        rows = np.asarray(indices, dtype=np.int64)
        chosen = ArrayClips.__new__(ArrayClips)
        chosen._pixels, chosen._identity, chosen.num_frames = self._pixels, self._identity, self.num_frames
        chosen._rows, chosen.labels = self._rows[rows], self.labels[rows]
        return chosen

    def fingerprint(self) -> str:
        return json_sha256([self._identity, self._rows.tolist(), self.labels.tolist()])

    def version(self) -> str:
        return tensor_sha256(torch.from_numpy(self._pixels[self._rows]))
