"""ROCOv2, radiological pictures: the publisher's split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions.formats import columns
from everclip.data.captions.pair_list import Broken, FileList, collect
from everclip.data.captions.samples import CaptionedData, samples
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["official"] = "official", broken: Broken = "refuse") -> CaptionedData:
    """ROCOv2 below `root`: one caption per picture, many longer than CLIP reads.

    Args:
        root: of the data.
        split: the only one.
        broken: see `collect`.

    Raises:
        MissingError: a list or the pictures are not there.
        DataError: a list has another form, or names pictures that are not there.
    """
    folder = spec("rocov2").require(Path(root), split)
    parts, notes = [], []
    for part in ("train", "valid", "test"):
        path = folder / f"{part}_captions.csv"
        pairs = FileList(path, list(columns(path, "ID", "Caption", "{}.jpg".format)), [folder / part])
        entries, found = collect(pairs, broken, published=True)
        parts.append(samples(pairs, entries))
        notes += found
    train, val, test = parts
    return CaptionedData("rocov2", train, test, val, tuple(notes))
