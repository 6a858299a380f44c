"""Describable Textures (DTD) from `images/`: CoOp's split, or MTIL's (the publisher's first partition)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, coop_split, listed, read_items, read_lines
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """DTD below `root`: 47 textures.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("dtd")
    if split == "coop":
        return coop_split(known, Path(root), "images")
    folder = known.require(Path(root), "mtil")
    lists = [folder / "labels" / f"{part}1.txt" for part in ("train", "test")]
    names = sorted({line.partition("/")[0] for line in read_lines(lists[0])})
    labels = {name: label for label, name in enumerate(names)}

    def parse(line: str) -> Item:
        return folder / "images" / line, labels[line.partition("/")[0]]

    train, test = (listed(read_items(path, parse), len(names), folder, known.title, path) for path in lists)
    return LabelledImages("dtd", tuple(names), known.splits["mtil"].templates, train, test)
