"""CUB-200-2011 from `CUB_200_2011/`, the publisher's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from everclip.data.datasets.base import LabelledImages, require
from everclip.data.images import FileImages
from everclip.errors import DataError

LISTS = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")


def load(*, root: str) -> LabelledImages:
    """CUB-200-2011 below `root`: 200 bird species, 5,994 training and 5,794 test pictures.

    Raises:
        MissingError: the publisher's lists or pictures are not there.
        DataError: a list has another form than the publisher's.
    """
    top = Path(root)
    folder = top / "CUB_200_2011"
    remedy = "extract the publisher's CUB_200_2011.tgz there"
    require([*(folder / name for name in LISTS), folder / "images"], "CUB-200-2011", remedy)
    classes, images, labels, flags = (_column(folder / name) for name in LISTS)
    if not len(images) == len(labels) == len(flags):
        raise DataError(f"{folder}: the lists name {len(images)}, {len(labels)} and {len(flags)} pictures")
    names = tuple(name.partition(".")[2].replace("_", " ") for name in classes)
    numbers = np.array(labels, dtype=np.int64) - 1
    is_train = np.array(flags) == "1"
    paths = [folder / "images" / image for image in images]
    train, test = (
        FileImages([paths[i] for i in np.flatnonzero(mask)], numbers[mask], top) for mask in (is_train, ~is_train)
    )
    require((*train.paths, *test.paths), "CUB-200-2011", remedy)
    keys = tuple(f"CUB_200_2011/images/{images[i]}" for i in np.flatnonzero(is_train))
    return LabelledImages("cub200", names, ("a photo of a {}, a type of bird.",), train, test, keys)


def _column(path: Path) -> list[str]:
    """The second word of every line `<number> <word>`."""
    try:
        return [line.split(maxsplit=1)[1].strip() for line in path.read_text().splitlines() if line.strip()]
    except IndexError as error:
        raise DataError(f"{path} has a line without two words") from error
