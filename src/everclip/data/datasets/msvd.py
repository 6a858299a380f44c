"""MSVD: clips of YouTube with about forty captions each, in the split of its lists."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions.clip_list import ClipList, rows_of
from everclip.data.captions.pair_list import PARTS, Broken, Row
from everclip.data.captions.samples import CaptionedData, by_part
from everclip.data.datasets.clip_lists import read_plain_pickle
from everclip.data.datasets.layouts import read_lines
from everclip.data.datasets.spec import spec
from everclip.data.images import Form
from everclip.data.video.form import USUAL
from everclip.errors import DataError


def load(
    *, root: str, split: Literal["official"] = "official", broken: Broken = "refuse", clips: Form = USUAL
) -> CaptionedData:
    """MSVD below `root`; all captions of a clip are queries.

    Args:
        root: of the data.
        split: 1,200, 100 and 670 clips.
        broken: see `collect`.
        clips: how files become clips.

    Raises:
        MissingError: a list is not there.
        DataError: a list has another form than its publisher's, or names clips that are not there.
    """
    known = spec("msvd")
    folder = known.require(Path(root), split)
    source, *lists = (folder / name for name in known.splits[split].files)
    content = read_plain_pickle(source)
    try:
        captions = {str(clip): [" ".join(words) for words in own] for clip, own in content.items()}
    except (TypeError, AttributeError) as error:
        raise DataError(f"{source} has not the form of MSVD: expected the words of captions by clip") from error
    rows: list[Row] = []
    for part, path in zip(PARTS, lists, strict=True):
        rows += rows_of(captions, read_lines(path), part, first=len(rows) + 1)
    return by_part("msvd", ClipList(source, rows, folder, clips), broken)
