"""The pickled files of CIFAR-10 and CIFAR-100, read by an unpickler that builds arrays and plain containers only."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everclip.data.datasets.layouts import check_labels
from everclip.data.files import check_regular
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


def batches(paths: Sequence[Path], labels_key: str, classes: int, data_set: str) -> ArrayImages:
    """The pictures of 32x32 in one or more files, in order.

    Args:
        paths: of the files.
        labels_key: what the files call the labels.
        classes: how many there are.
        data_set: part of the fingerprint.

    Raises:
        DataError: a file cannot be read, or a label is out of range.
    """
    pixels, labels = [], []
    for path in paths:
        rows, numbers = entries(path, "data", labels_key)
        labels.append(np.asarray(numbers, np.int64))
        check_labels(labels[-1], classes, path)
        try:
            pixels.append(np.asarray(rows, np.uint8).reshape(len(numbers), 3, 32, 32).transpose(0, 2, 3, 1))
        except ValueError as error:
            raise DataError(f"{path} has {len(numbers)} labels but other pictures: {error}") from error
    identity = json_sha256([data_set, *(item for path in paths for item in (path.name, path.stat().st_size))])
    return ArrayImages(np.concatenate(pixels), np.concatenate(labels), identity, paths)


def entries(path: Path, *names: str) -> list[Any]:
    """Entries of the dictionary that a file holds.

    Raises:
        DataError: the file cannot be read or lacks one.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        return [content[name] for name in names]
    except KeyError as error:
        raise DataError(f"{path} has no entry {error}; is it a file of another data set?") from error
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as a CIFAR file: {error}") from error
