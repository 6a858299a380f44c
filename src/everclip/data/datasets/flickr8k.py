"""Flickr8K: Karpathy's split, or all of Kaggle's copy for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions.formats import read_list
from everclip.data.captions.pair_list import Broken
from everclip.data.captions.samples import CaptionedData, by_part
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["karpathy", "kaggle"] = "karpathy", broken: Broken = "refuse") -> CaptionedData:
    """Flickr8K below `root`: five captions per picture.

    Args:
        root: of the data.
        split: `karpathy`: 6,000, 1,000 and 1,000 pictures; `kaggle`: all, for testing.
        broken: see `collect`.

    Raises:
        MissingError: the list or the pictures are not there.
        DataError: the list has another form, or names pictures that are not there.
    """
    known = spec("flickr8k")
    folder = known.require(Path(root), split)
    (name,) = known.splits[split].files
    return by_part("flickr8k", read_list(folder / name, folder / "Images"), broken)
