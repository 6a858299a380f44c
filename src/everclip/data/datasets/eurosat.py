"""EuroSAT (RGB) from `2750/`: CoOp's split, or MTIL's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import coop_split, mtil_tree
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """EuroSAT below `root`: 10 kinds of land use.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("eurosat")
    return coop_split(known, Path(root), "2750") if split == "coop" else mtil_tree(known, Path(root), "2750")
