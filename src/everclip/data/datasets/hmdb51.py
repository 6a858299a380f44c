"""HMDB51 from its videos: the publisher's three splits, ViFi-CLIP's base and novel classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.clip_lists import vifi
from everclip.data.datasets.layouts import Item, listed, read_items
from everclip.data.datasets.spec import spec
from everclip.data.datasets.ucf_layout import spoken
from everclip.data.images import Form
from everclip.data.video.form import USUAL
from everclip.errors import MissingError

LISTS = "testTrainMulti_7030_splits"
PARTS = {1: "train", 2: "test"}  # 0: in neither


def load(
    *, root: str, split: Literal["1", "2", "3", "vifi1", "vifi2", "vifi3"] = "1", clips: Form = USUAL
) -> LabelledImages:
    """HMDB51 below `root`: 51 actions.

    Args:
        root: of the data.
        split: `1`, `2`, `3`: the publisher's; `vifi<seed>`: 16 clips of each of the first 26 classes, the base classes.
        clips: how files become clips.

    Raises:
        MissingError: a list or clip is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("hmdb51")
    folder = known.require(Path(root), split)
    if split.startswith("vifi"):
        return vifi(known, folder, split, clips)
    ending = f"_test_split{split}.txt"
    lists = sorted((folder / LISTS).glob(f"*{ending}"))
    if not lists:
        raise MissingError(f"{known.title}: {folder / LISTS} holds no *{ending}; {known.remedy}")
    parts: dict[str, list[Item]] = {"train": [], "test": []}
    for label, source in enumerate(lists):
        videos = folder / "videos" / source.name.removesuffix(ending)
        for path, number in read_items(source, partial(_item, videos)):
            if number in PARTS:
                parts[PARTS[number]].append((path, label))
    train, test = (listed(own, len(lists), folder, known.title, folder / LISTS, clips) for own in parts.values())
    names = tuple(spoken(source.name.removesuffix(ending)) for source in lists)
    return LabelledImages(known.key, names, known.splits[split].templates, train.trained, test)


def _item(videos: Path, line: str) -> Item:
    file, number = line.rsplit(maxsplit=1)
    return videos / file, int(number)
