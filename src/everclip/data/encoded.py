"""Samples whose pictures have passed a frozen image tower already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everclip.types import Batch, Draw, Indices, Prepare, Samples


class EncodedSamples(Samples):
    """Samples with features in the place of pictures; in all else they are their source.

    Args:
        source: the pictures.
        views: features (N, D) of the only look that pictures have, or of each of the draws with numbers from 0.
    """

    def __init__(self, source: Samples, views: Sequence[Tensor]) -> None:
        self._source, self._views = source, tuple(views)
        self.labels, self.num_frames, self.files = source.labels, source.num_frames, source.files

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        view = 0 if len(self._views) == 1 or draw is None else draw.key[-1]
        return self.batch(self._views[view][torch.as_tensor(indices)], indices)

    def subset(self, indices: Sequence[int] | Indices) -> EncodedSamples:
        return EncodedSamples(self._source.subset(indices), [view[torch.as_tensor(indices)] for view in self._views])

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def version(self) -> str:
        return self._source.version()
