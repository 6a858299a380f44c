"""NoCaps: its validation pictures, for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions.formats import read_list
from everclip.data.captions.pair_list import Broken
from everclip.data.captions.samples import CaptionedData, by_part
from everclip.data.datasets.spec import spec
from everclip.types import Positive


def load(
    *,
    root: str,
    split: Literal["validation"] = "validation",
    test_captions: Positive | None = None,
    broken: Broken = "refuse",
) -> CaptionedData:
    """NoCaps below `root`: 4,500 pictures with ten captions each; those of its test pictures are not published.

    Args:
        root: of the data.
        split: the only one.
        test_captions: of a picture, the first ones; None: all ten.
        broken: see `collect`.

    Raises:
        MissingError: the list or the pictures are not there.
        DataError: the list has another form, or names pictures that are not there.
    """
    folder = spec("nocaps").require(Path(root), split)
    pairs = read_list(folder / "nocaps_val_4500_captions.json", folder / "images")
    return by_part("nocaps", pairs, broken, test_captions)
