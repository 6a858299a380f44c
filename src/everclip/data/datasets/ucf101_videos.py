"""UCF101 from its videos: the publisher's three splits, vCLIMB's sessions, ViFi-CLIP's base and novel classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.clip_lists import vclimb, vifi
from everclip.data.datasets.spec import spec
from everclip.data.datasets.ucf_layout import read_layout
from everclip.data.images import Form
from everclip.data.video.form import USUAL

Splits = Literal["1", "2", "3", "vclimb10", "vclimb20", "vifi1", "vifi2", "vifi3"]


def load(*, root: str, split: Splits = "1", clips: Form = USUAL) -> LabelledImages:
    """UCF101 below `root`: 101 actions.

    Args:
        root: of the data.
        split: `1`, `2`, `3`: the publisher's; `vclimb10`, `vclimb20`: with classes in the order of so many sessions;
            `vifi<seed>`: 16 clips of each of the first 51 classes, the base classes.
        clips: how files become clips.

    Raises:
        MissingError: a list or clip is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("ucf101_videos")
    folder = known.require(Path(root), split)
    if split.startswith("vclimb"):
        return vclimb(known, folder, split, clips)
    if split.startswith("vifi"):
        return vifi(known, folder, split, clips)
    own = known.splits[split]
    return read_layout(folder, "UCF-101", split, clips, name=known.key, title=known.title, templates=own.templates)
