"""Published lists of captioned clips, which name a clip without its folder and ending."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from everclip.data.captions.pair_list import PairList, Row, check_views
from everclip.data.datasets.clip_lists import ClipFiles
from everclip.data.images import FileImages, Form
from everclip.types import NO_CLASS


class ClipList(PairList):
    """Captions of clips anywhere below a folder.

    Args:
        source: the list of the captions.
        rows: whose pictures are names of clips.
        folder: of the data set.
        form: what is made of a file.
    """

    unit = "caption"

    def __init__(self, source: Path, rows: Sequence[Row], folder: Path, form: Form) -> None:
        self.source, self.rows = source, rows
        self._folder, self._form = folder, check_views(form)
        self._clips = ClipFiles(folder, form)

    def missing(self, picture: str) -> str:
        return "" if picture in self._clips else f"clip {picture} is not below {self._folder}"

    def pictures(self, names: Sequence[str]) -> FileImages:
        paths = [self._clips.of(name, self.source.name, self.source) for name in names]
        return FileImages(paths, np.full(len(paths), NO_CLASS, np.int64), self._folder, [self.source], self._form)


def rows_of(
    captions: Mapping[str, Sequence[str]], clips: Iterable[str], split: str, session: str = "", first: int = 1
) -> list[Row]:
    """The captions of some clips; one without any has an empty one.

    Args:
        captions: by the name of the clip.
        clips: in order.
        split: of all of them.
        session: of all of them.
        first: number of the first caption.
    """
    pairs = [(clip, text.strip()) for clip in clips for text in captions.get(clip) or [""]]
    return [Row(clip, text, number, split, session) for number, (clip, text) in enumerate(pairs, start=first)]
