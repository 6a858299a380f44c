"""Oxford Flowers 102 from `jpg/`: CoOp's split, or MTIL's (the publisher's: 10 training pictures per class)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, coop_split, listed, variables
from everclip.data.datasets.spec import spec
from everclip.errors import DataError
from everclip.types import Indices


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """Flowers 102 below `root`.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("flowers102")
    if split == "coop":
        return coop_split(known, Path(root), "jpg")
    folder = known.require(Path(root), "mtil")
    numbers, sets = (folder / name for name in known.splits["mtil"].files)
    names, templates = known.splits["mtil"].names, known.splits["mtil"].templates
    labels, parts = variables(numbers, "labels")["labels"] - 1, variables(sets, "trnid", "tstid")

    def items(ids: Indices) -> list[Item]:
        if ids.max() > len(labels):
            raise DataError(f"{sets} names picture {ids.max()}, but {numbers} has {len(labels)} labels")
        return [(folder / "jpg" / f"image_{number:05d}.jpg", int(labels[number - 1])) for number in ids]

    train, test = (listed(items(parts[s]), len(names), folder, known.title, numbers) for s in ("trnid", "tstid"))
    return LabelledImages("flowers102", names, templates, train, test)
