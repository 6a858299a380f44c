"""FGVC-Aircraft from `images/` and the publisher's lists of variants; MTIL takes no validation pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, listed, read_items, read_lines
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """FGVC-Aircraft below `root`: 100 variants.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("fgvc_aircraft")
    folder = known.require(Path(root), split)
    names = read_lines(folder / "variants.txt")
    labels = {name: label for label, name in enumerate(names)}

    def parse(line: str) -> Item:
        number, _, variant = line.partition(" ")
        return folder / "images" / f"{number}.jpg", labels[variant]

    lists = [folder / f"images_variant_{part}.txt" for part in ("train", "val", "test")]
    train, val, test = (listed(read_items(path, parse), len(names), folder, known.title, path) for path in lists)
    templates = known.splits[split].templates
    return LabelledImages("fgvc_aircraft", tuple(names), templates, train, test, val=val if split == "coop" else None)
