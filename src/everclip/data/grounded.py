"""Clips with a text each, the moments that it speaks of, and how well each part of the clip shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from everclip.digest import json_sha256
from everclip.objectives.grounding import JUDGED, MOMENTS
from everclip.types import NO_CLASS, Batch, Draw, Indices, Prepare, Samples


@dataclass(frozen=True)
class GroundedData:
    """Texts of clips and where they are, with their split.

    Attributes:
        name: of the data set.
        train: for training.
        test: for testing.
        val: for validation, where there are others than those for testing.
    """

    name: str
    train: GroundedClips
    test: GroundedClips
    val: GroundedClips | None = None


class GroundedClips(Samples):
    """Clips, each with one text; a clip of several texts comes as often.

    Args:
        clips: of T frames, whose labels mean nothing.
        texts: N of them.
        moments: (N, M, 2) float32, starts and ends as shares of the clip's length, in no order; all -1 where there are
            fewer than M.
        judged: (N, T, A) int64, what A annotators say of the T equal parts of a clip, from 0 to 4.
    """

    def __init__(
        self, clips: Samples, texts: Sequence[str], moments: NDArray[np.float32], judged: NDArray[np.int64]
    ) -> None:
        self._clips, self._moments, self._judged = clips, moments, judged
        self.texts = tuple((text,) for text in texts)
        self.labels = np.full(len(clips), NO_CLASS, dtype=np.int64)
        self.num_frames, self.drawn, self.files = clips.num_frames, clips.drawn, clips.files

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        rows = np.asarray(indices, dtype=np.int64)
        targets = {MOMENTS: torch.from_numpy(self._moments[rows]), JUDGED: torch.from_numpy(self._judged[rows])}
        clips = self._clips.read(indices, prepare, draw)
        return replace(
            self.batch(clips.images, indices), texts=tuple(self.texts[i][0] for i in indices), targets=targets
        )

    def subset(self, indices: Sequence[int] | Indices) -> GroundedClips:
        return self._of(self._clips.subset(indices), np.asarray(indices, dtype=np.int64))

    def shown(self) -> Indices:
        return self._clips.shown()

    def fingerprint(self) -> str:
        facts = [self._clips.fingerprint(), self.texts, self._moments.tolist(), self._judged.tolist()]
        return json_sha256(facts)

    def version(self) -> str:
        return self._clips.version()

    @property
    def pictures(self) -> Samples:
        return self._clips

    def with_pictures(self, pictures: Samples) -> GroundedClips:
        return self._of(pictures, np.arange(len(self)))

    def _of(self, clips: Samples, rows: Indices) -> GroundedClips:
        return GroundedClips(clips, [self.texts[i][0] for i in rows], self._moments[rows], self._judged[rows])
