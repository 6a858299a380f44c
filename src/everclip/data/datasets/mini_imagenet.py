"""miniImageNet in the split of few-shot class-incremental learning, pictures in one folder `miniimagenet/images/`.

Which pictures belong to it, their labels and their split are the lists of CEC (see `data/splits/README.md`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages, split_lines
from everclip.data.datasets.layouts import listed
from everclip.data.datasets.spec import spec
from everclip.data.images import FileImages


def load(*, root: str, split: Literal["official"] = "official") -> LabelledImages:
    """MiniImageNet below `root`: 100 classes, 500 training and 100 test pictures each.

    Raises:
        MissingError: a listed picture is not there.
    """
    known = spec("mini_imagenet")
    folder = known.require(Path(root), split)
    names = tuple(line.split(maxsplit=2)[2] for line in split_lines("mini_imagenet", "classes.txt"))
    train, test = (_images(folder / "images", f"{part}_index.txt", known.title) for part in ("train", "test"))
    keys = tuple(path.name for path in train.paths)
    return LabelledImages("mini_imagenet", names, known.splits[split].templates, train, test, keys)


def _images(folder: Path, file: str, title: str) -> FileImages:
    rows = [line.split() for line in split_lines("mini_imagenet", file)]
    items = [
        (folder / f"{wnid}{int(number):08d}.jpg", label)
        for label, (wnid, *numbers) in enumerate(rows)
        for number in numbers
    ]
    return listed(items, len(rows), folder.parent.parent, title, Path("mini_imagenet", file))
