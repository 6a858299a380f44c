"""Stanford Cars from `cars_train/` and `cars_test/`: CoOp's split, or MTIL's (the publisher's)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, coop_split, listed, variables
from everclip.data.datasets.spec import spec
from everclip.errors import DataError


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """Stanford Cars below `root`: 196 models.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("stanford_cars")
    if split == "coop":
        return coop_split(known, Path(root), ".")
    folder = known.require(Path(root), "mtil")
    train_list, meta, test_list = (folder / name for name in known.splits["mtil"].files)
    names = tuple(str(name) for name in variables(meta, "class_names")["class_names"])
    train, test = (
        listed(_items(path, pictures), len(names), folder, known.title, path)
        for path, pictures in ((train_list, folder / "cars_train"), (test_list, folder / "cars_test"))
    )
    return LabelledImages("stanford_cars", names, known.splits["mtil"].templates, train, test)


def _items(path: Path, pictures: Path) -> list[Item]:
    rows = variables(path, "annotations")["annotations"]
    if not (isinstance(rows, list) and all(isinstance(row, dict) and {"fname", "class"} <= set(row) for row in rows)):
        raise DataError(f"{path} names no file and class of each picture; the test list with labels is needed")
    return [(pictures / str(row["fname"]), int(row["class"]) - 1) for row in rows]
