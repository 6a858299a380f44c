"""Caltech-101 from `101_ObjectCategories/`: CoOp's split (100 classes), or MTIL's (101, both kinds of faces)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import coop_split, mtil_tree
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """Caltech-101 below `root`.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("caltech101")
    if split == "coop":
        return coop_split(known, Path(root), "101_ObjectCategories")
    return mtil_tree(known, Path(root), "101_ObjectCategories", ignored=("BACKGROUND_Google",))
