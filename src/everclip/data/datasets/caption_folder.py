"""Data sets of image-text pairs without a published layout: a folder of pictures and `captions.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions import own
from everclip.data.captions.pair_list import Broken
from everclip.data.captions.samples import CaptionedData
from everclip.data.datasets.spec import spec
from everclip.data.sequences.folder import Share


def load(
    *,
    root: str,
    key: str,
    split: Literal["listed"] = "listed",
    test_share: Share = 0.2,
    test_seed: int = 0,
    broken: Broken = "refuse",
) -> CaptionedData:
    """A data set below `root`.

    Args:
        root: of the data.
        key: of the data set.
        split: as the list says (`split` in every line); where it says none, a share of the pictures is for testing.
        test_share: that share.
        test_seed: of the choice of these.
        broken: see `collect`.

    Raises:
        MissingError: the folder or its list is not there.
        DataError: the list cannot be used.
    """
    folder = spec(key).require(Path(root), split)
    return own.load(root=str(folder), test_share=test_share, test_seed=test_seed, broken=broken, name=key)
