"""CUB-200-2011 from `CUB_200_2011/`, the publisher's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import listed, read_lines
from everclip.data.datasets.spec import spec
from everclip.errors import DataError


def load(*, root: str, split: Literal["official"] = "official") -> LabelledImages:
    """CUB-200-2011 below `root`: 200 bird species, 5,994 training and 5,794 test pictures.

    Raises:
        MissingError: the publisher's lists or pictures are not there.
        DataError: a list has another form than the publisher's.
    """
    known = spec("cub200")
    folder = known.require(Path(root), split)
    lists = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
    classes, images, labels, flags = (_column(folder / name) for name in lists)
    if not len(images) == len(labels) == len(flags):
        raise DataError(f"{folder}: the lists name {len(images)}, {len(labels)} and {len(flags)} pictures")
    names = tuple(name.partition(".")[2].replace("_", " ") for name in classes)
    rows = [(folder / "images" / image, int(label) - 1) for image, label in zip(images, labels, strict=True)]
    train, test = (
        listed(
            [row for row, own in zip(rows, flags, strict=True) if own == flag],
            len(names), folder.parent, known.title, folder / "image_class_labels.txt",
        )
        for flag in ("1", "0")
    )  # fmt: skip
    keys = tuple(path.relative_to(folder.parent).as_posix() for path in train.paths)
    return LabelledImages("cub200", names, known.splits[split].templates, train, test, keys)


def _column(path: Path) -> list[str]:
    """The second word of every line `<number> <word>`."""
    try:
        return [line.split(maxsplit=1)[1] for line in read_lines(path)]
    except IndexError as error:
        raise DataError(f"{path} has a line without two words") from error
