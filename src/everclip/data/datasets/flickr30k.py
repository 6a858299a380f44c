"""Flickr30K: Karpathy's split, its training and validation pictures together, or all of Kaggle's copy for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions.formats import read_list
from everclip.data.captions.pair_list import Broken
from everclip.data.captions.samples import CaptionedData, by_part
from everclip.data.datasets.spec import spec


def load(
    *, root: str, split: Literal["karpathy", "trainval", "kaggle"] = "karpathy", broken: Broken = "refuse"
) -> CaptionedData:
    """Flickr30K below `root`: five captions per picture.

    Args:
        root: of the data.
        split: `karpathy`: 29,000, 1,014 and 1,000 pictures; `trainval`: the first two as one, in the order of the file,
            as Mod-X has them; `kaggle`: all, for testing.
        broken: see `collect`.

    Raises:
        MissingError: the list or the pictures are not there.
        DataError: the list has another form, or names pictures that are not there.
    """
    known = spec("flickr30k")
    folder = known.require(Path(root), split)
    if split == "kaggle":
        return by_part("flickr30k", read_list(folder / "results.csv", folder / "flickr30k_images"), broken)
    pairs = read_list(folder / "dataset_flickr30k.json", folder / "flickr30k-images")
    return by_part("flickr30k", pairs, broken, as_training=("val",) if split == "trainval" else ())
