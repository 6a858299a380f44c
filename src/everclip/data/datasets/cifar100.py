"""CIFAR-100 from `cifar-100-python/{train,test,meta}`, the publisher's Python archive.

The archive is pickled; it is read by an unpickler that builds arrays and plain containers and nothing else.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from everclip.data.datasets.base import LabelledImages, require
from everclip.data.images import ArrayImages
from everclip.digest import json_sha256
from everclip.errors import DataError

ARRAY_PARTS = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"), ("_codecs", "encode"),
}  # fmt: skip


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a data file")
        return super().find_class(module, name)


def load(*, root: str) -> LabelledImages:
    """CIFAR-100 below `root`: 100 classes, 50,000 training and 10,000 test pictures of 32x32.

    Raises:
        MissingError: the archive's files are not there.
        DataError: a file cannot be read.
    """
    folder = Path(root) / "cifar-100-python"
    remedy = "extract the publisher's cifar-100-python.tar.gz there"
    require([folder / name for name in ("train", "test", "meta")], "CIFAR-100", remedy)
    names = tuple(str(name).replace("_", " ") for name in _read(folder / "meta")["fine_label_names"])
    train, test = (_images(folder / split) for split in ("train", "test"))
    keys = tuple(str(i) for i in range(len(train)))
    return LabelledImages("cifar100", names, ("a photo of a {}.",), train, test, keys)


def _images(path: Path) -> ArrayImages:
    content = _read(path)
    pixels = np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.asarray(content["fine_labels"], np.int64)
    return ArrayImages(np.ascontiguousarray(pixels), labels, json_sha256(["cifar100", path.name, path.stat().st_size]))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content: dict[str, Any] = _ArrayUnpickler(file, encoding="latin1").load()
            return content
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a CIFAR file: {error}") from error
