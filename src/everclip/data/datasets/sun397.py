"""SUN397 from `SUN397/<letter>/<scene>/`: CoOp's split, or MTIL's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import class_folders, coop_split, listed, mtil_80_20, read_lines
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """SUN397 below `root`: 397 scenes.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("sun397")
    if split == "coop":
        return coop_split(known, Path(root), "SUN397")
    folder = known.require(Path(root), "mtil")
    list_of_classes = folder / "SUN397" / "ClassName.txt"
    scenes = [line.strip("/") for line in read_lines(list_of_classes)]
    items = class_folders(folder / "SUN397", scenes, known.title)
    parts = mtil_80_20(sorted(items, key=lambda item: item[0].as_posix()))
    train, test = (listed(part, len(scenes), folder, known.title, list_of_classes) for part in parts)
    names = tuple(scene.partition("/")[2].replace("_", " ") for scene in scenes)
    return LabelledImages("sun397", names, known.splits["mtil"].templates, train, test)
