from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.data.datasets.base import LabelledImages
from everclip.data.images import ArrayImages, FileImages
from everclip.evaluation.classification import Classification
from everclip.types import ClassSet, Samples, TaskSequence

MakeDataset = Callable[..., LabelledImages]
CLASSES = ("black-footed_albatross", "zebra", "ästhetisches Tier 動物")
NAMES = ("black footed albatross", "zebra", "ästhetisches Tier 動物")
colours = iter(range(1 << 24))


def picture(path: Path) -> Path:
    """Writes a small picture unlike any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), next(colours)).save(path)
    return path


def paths(images: Samples) -> list[str]:
    assert isinstance(images, FileImages)
    return [path.name for path in images.paths]


@pytest.fixture
def make_dataset() -> MakeDataset:
    """Makes a data set of 2x2 pictures; the pixels of picture i are i."""

    def images(labels: Sequence[int], identity: str) -> ArrayImages:
        pixels = np.repeat(np.arange(len(labels), dtype=np.uint8), 12).reshape(-1, 2, 2, 3)
        return ArrayImages(pixels, np.array(labels), identity)

    def _make(classes: int, train: int = 3, test: int = 2, name: str = "made") -> LabelledImages:
        names = tuple(f"{name} {i}" for i in range(classes))
        sets = (images(list(range(classes)) * count, f"{name} {count}") for count in (train, test))
        return LabelledImages(name, names, (f"a {name} of a {{}}.",), *sets)

    return _make


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Ten pictures per class, no test set."""
    for name in CLASSES:
        for i in range(10):
            picture(tmp_path / "tree" / name / f"{name[:1]}{i}.png")
    return tmp_path / "tree"


def candidates(sequence: TaskSequence, session: int, index: int) -> ClassSet:
    """The classes that samples of a task are compared with after a session."""
    task = sequence.tasks[index]
    assert isinstance(task.evaluator, Classification)
    return task.evaluator.candidates(task, sequence.seen(session))
