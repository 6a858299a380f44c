"""MNIST from `MNIST/raw/*-ubyte`, the publisher's IDX files, gzipped or not; not gzipped, the pictures stay on disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import check_labels
from everclip.data.datasets.spec import spec, there
from everclip.data.files import unzipped
from everclip.data.images import ArrayImages
from everclip.digest import json_sha256
from everclip.errors import DataError


def load(*, root: str, split: Literal["mtil"] = "mtil") -> LabelledImages:
    """MNIST below `root`: 10 digits, 60,000 training and 10,000 test pictures of 28x28, grey as RGB.

    Raises:
        MissingError: a file is not there.
        DataError: a file is no IDX file.
    """
    known = spec("mnist")
    folder = known.require(Path(root), split)
    names, templates = known.splits[split].names, known.splits[split].templates
    train, test = (_images(folder, part, len(names)) for part in ("train", "t10k"))
    return LabelledImages("mnist", names, templates, train, test)


def _images(folder: Path, part: str, classes: int) -> ArrayImages:
    paths = [there(folder / f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    pictures, numbers = map(_array, paths)
    labels = np.asarray(numbers, np.int64)
    check_labels(labels, classes, folder / f"{part}-labels-idx1-ubyte")
    if pictures.ndim != 3 or len(pictures) != len(labels):
        raise DataError(f"{folder}: {part}-images of shape {pictures.shape} do not go with {len(labels)} labels")
    rgb = np.broadcast_to(pictures[..., None], (*pictures.shape, 3))
    return ArrayImages(rgb, labels, json_sha256(["mnist", part, list(pictures.shape)]), paths)


def _array(path: Path) -> NDArray[Any]:
    """The bytes of an IDX file: two zeros, type 8 (unsigned byte), the number of axes, big-endian lengths, values."""
    if path.suffix != ".gz":
        content: NDArray[Any] = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    else:
        content = np.frombuffer(unzipped(path), np.uint8)
    if len(content) < 4 or content[:3].tolist() != [0, 0, 8]:
        raise DataError(f"{path} is no IDX file of unsigned bytes")
    start = 4 + 4 * int(content[3])
    if len(content) < start:
        raise DataError(f"{path} is cut off")
    shape = content[4:start].view(">u4").tolist()
    if len(content) - start != math.prod(shape):
        raise DataError(f"{path} announces values of shape {shape} but holds {len(content) - start} bytes of them")
    return content[start:].reshape(shape)
