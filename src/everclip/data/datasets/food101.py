"""Food-101 from `images/`: CoOp's split (which ignores the publisher's), or MTIL's (the publisher's)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import coop_split, listed, read_json
from everclip.data.datasets.spec import spec
from everclip.errors import DataError


def load(*, root: str, split: Literal["coop", "mtil"] = "coop") -> LabelledImages:
    """Food-101 below `root`.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("food101")
    if split == "coop":
        return coop_split(known, Path(root), "images")
    folder = known.require(Path(root), "mtil")
    lists = [folder / name for name in known.splits["mtil"].files]
    contents = [_by_class(path) for path in lists]
    classes = sorted(contents[0])
    for name in contents[1]:
        if name not in contents[0]:
            raise DataError(f"{lists[1]} names the class {name!r}, which {lists[0]} does not have")
    parts = [
        [(folder / "images" / f"{file}.jpg", classes.index(name)) for name in content for file in content[name]]
        for content in contents
    ]
    train, test = (
        listed(part, len(classes), folder, known.title, path) for part, path in zip(parts, lists, strict=True)
    )
    names = tuple(name.replace("_", " ") for name in classes)
    return LabelledImages("food101", names, known.splits["mtil"].templates, train, test)


def _by_class(path: Path) -> dict[str, list[str]]:
    """The publisher's files per class."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(files, list) for files in content.values()):
        raise DataError(f"{path} must give a list of files for every class")
    return content
