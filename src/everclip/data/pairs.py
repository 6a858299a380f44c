"""Image-text pairs: pictures with one or several texts each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from everclip.digest import json_sha256
from everclip.errors import DataError
from everclip.types import NO_CLASS, Batch, Described, Draw, Indices, Prepare, Samples


class CaptionedImages(Samples):
    """Pictures with their captions; in training one of a picture's captions is drawn in every pass.

    Args:
        pictures: whose labels mean nothing here.
        texts: the captions of every picture, at least one.
        described: what is known of pictures and captions besides.

    Raises:
        DataError: another number of captions than pictures, or a picture without any.
    """

    def __init__(self, pictures: Samples, texts: Sequence[Sequence[str]], described: Described | None = None) -> None:
        if len(texts) != len(pictures):
            raise DataError(f"{len(pictures)} pictures, but captions of {len(texts)}")
        if bare := [position for position, own in enumerate(texts) if not own]:
            raise DataError(f"picture {bare[0]} has no caption")
        self._pictures, self.files = pictures, pictures.files
        self.num_frames, self.drawn = pictures.num_frames, pictures.drawn
        self.texts, self.described = tuple(map(tuple, texts)), described
        self.labels = np.full(len(pictures), NO_CLASS, dtype=np.int64)

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        chosen = [0 if draw is None else int(draw.stream(i).integers(len(self.texts[i]))) for i in indices]
        texts = tuple(self.texts[i][number] for i, number in zip(indices, chosen, strict=True))
        pictures = self._pictures.read(indices, prepare, draw)
        return replace(self.batch(pictures.images, indices), texts=texts)

    def subset(self, indices: Sequence[int] | Indices) -> CaptionedImages:
        described = self.described and self.described.subset(indices)
        return CaptionedImages(self._pictures.subset(indices), [self.texts[i] for i in indices], described)

    def fingerprint(self) -> str:
        described = [] if self.described is None else self.described.facts()
        return json_sha256([self._pictures.fingerprint(), self.texts, *described])

    def version(self) -> str:
        return self._pictures.version()

    @property
    def pictures(self) -> Samples:
        return self._pictures

    def with_pictures(self, pictures: Samples) -> CaptionedImages:
        return CaptionedImages(pictures, self.texts, self.described)
