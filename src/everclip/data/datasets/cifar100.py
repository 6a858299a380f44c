"""CIFAR-100 from `cifar-100-python/{train,test,meta}`, the publisher's Python archive."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.cifar_files import batches, entries
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["official", "mtil", "continual_clip"] = "official") -> LabelledImages:
    """CIFAR-100 below `root`: 100 classes, 50,000 training and 10,000 test pictures of 32x32.

    Args:
        root: of the data.
        split: all of the same pictures; `mtil` has other templates, `continual_clip` also the archive's underscores
            in names.

    Raises:
        MissingError: the archive's files are not there.
        DataError: a file cannot be read.
    """
    known = spec("cifar100")
    folder = known.require(Path(root), split)
    names = tuple(str(name) for name in entries(folder / "meta", "fine_label_names")[0])
    if split != "continual_clip":
        names = tuple(name.replace("_", " ") for name in names)
    train, test = (batches([folder / part], "fine_labels", len(names), "cifar100") for part in ("train", "test"))
    keys = tuple(str(i) for i in range(len(train)))
    return LabelledImages("cifar100", names, known.splits[split].templates, train, test, keys)
