"""UCF101, the middle frame of each video, from `UCF-101-midframes/` in CoOp's split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import coop_split
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["coop"] = "coop") -> LabelledImages:
    """UCF101 below `root`: 101 actions.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    return coop_split(spec("ucf101"), Path(root), "UCF-101-midframes")
