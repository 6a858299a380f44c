"""CIFAR-10 from `cifar-10-batches-py/`, the publisher's Python archive."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.cifar_files import batches, entries
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["official"] = "official") -> LabelledImages:
    """CIFAR-10 below `root`: 10 classes, 50,000 training and 10,000 test pictures of 32x32.

    Raises:
        MissingError: the archive's files are not there.
        DataError: a file cannot be read.
    """
    known = spec("cifar10")
    folder = known.require(Path(root), split)
    names = tuple(str(name) for name in entries(folder / "batches.meta", "label_names")[0])
    train = batches([folder / f"data_batch_{i}" for i in range(1, 6)], "labels", len(names), "cifar10")
    test = batches([folder / "test_batch"], "labels", len(names), "cifar10")
    return LabelledImages("cifar10", names, known.splits[split].templates, train, test)
