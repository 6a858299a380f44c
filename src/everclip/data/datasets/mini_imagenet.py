"""miniImageNet in the split of few-shot class-incremental learning, pictures in one folder `miniimagenet/images/`.

Which pictures belong to it, their labels and their split are the lists of CEC (see `data/splits/README.md`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from everclip.data.datasets.base import LabelledImages, require, split_lines
from everclip.data.images import FileImages


def load(*, root: str) -> LabelledImages:
    """MiniImageNet below `root`: 100 classes, 500 training and 100 test pictures each.

    Raises:
        MissingError: a listed picture is not there.
    """
    top = Path(root)
    folder = top / "miniimagenet" / "images"
    remedy = "put the 60,000 pictures <wnid><8 digits>.jpg of CEC's miniImageNet there"
    names = tuple(line.split(maxsplit=2)[2] for line in split_lines("mini_imagenet", "classes.txt"))
    train, test = (_images(folder, split, top) for split in ("train", "test"))
    require([folder, *train.paths, *test.paths], "miniImageNet", remedy)
    keys = tuple(path.name for path in train.paths)
    return LabelledImages("mini_imagenet", names, ("a photo of a {}.",), train, test, keys)


def _images(folder: Path, split: str, root: Path) -> FileImages:
    paths: list[Path] = []
    labels: list[int] = []
    for label, line in enumerate(split_lines("mini_imagenet", f"{split}_index.txt")):
        wnid, *numbers = line.split()
        paths += [folder / f"{wnid}{int(number):08d}.jpg" for number in numbers]
        labels += [label] * len(numbers)
    return FileImages(paths, np.array(labels, dtype=np.int64), root)
