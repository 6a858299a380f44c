"""Oxford-IIIT Pet from `images/`: CoOp's split, or MTIL's (the publisher's trainval and test)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, coop_split, listed, read_items
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """Oxford-IIIT Pet below `root`: 37 breeds.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("oxford_pets")
    if split == "coop":
        return coop_split(known, Path(root), "images")
    folder = known.require(Path(root), "mtil")
    breeds: dict[int, str] = {}

    def parse(line: str) -> Item:
        picture, number, _, _ = line.split()
        breeds.setdefault(int(number) - 1, " ".join(word.title() for word in picture.split("_")[:-1]))
        return folder / "images" / f"{picture}.jpg", int(number) - 1

    lists = [folder / name for name in known.splits["mtil"].files]
    items = [read_items(path, parse) for path in lists]
    train, test = (
        listed(part, len(breeds), folder, known.title, path) for part, path in zip(items, lists, strict=True)
    )
    names = tuple(breeds[label] for label in sorted(breeds))
    return LabelledImages("oxford_pets", names, known.splits["mtil"].templates, train, test)
