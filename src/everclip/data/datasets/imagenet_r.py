"""ImageNet-R from `imagenet-r/<wnid>/`: CODA-Prompt's split (see `data/splits/README.md`), or all of it for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages, split_lines
from everclip.data.datasets.imagenet_folders import names_of, only_test
from everclip.data.datasets.layouts import class_folders, listed
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["sorted", "coda", "test_only"] = "sorted") -> LabelledImages:
    """ImageNet-R below `root`: renditions of 200 classes of ImageNet.

    The split's test pictures are listed; all others are for training.

    Args:
        root: of the data.
        split: `sorted` and `coda`: the same pictures, but the classes numbered in sorted order or as CODA-Prompt has it
            (its class orders are permutations of those numbers); `test_only`: all pictures, none for training.

    Raises:
        MissingError: a class's folder or a listed picture is not there.
    """
    known = spec("imagenet_r")
    folder = known.require(Path(root), split)
    lines = split_lines("imagenet_r", "test.txt")
    if split == "test_only":
        return only_test(known, Path(root), sorted(line.split()[0] for line in lines))
    ordered = lines if split == "coda" else sorted(lines)
    held_out = {wnid: stems for wnid, *stems in (line.split() for line in ordered)}
    test_items = [
        (folder / wnid / f"{stem}.jpg", label) for label, wnid in enumerate(held_out) for stem in held_out[wnid]
    ]
    tested = {path for path, _ in test_items}
    train_items = [item for item in class_folders(folder, list(held_out), known.title) if item[0] not in tested]
    train, test = (
        listed(part, len(held_out), folder, known.title, Path("imagenet_r/test.txt"))
        for part in (train_items, test_items)
    )
    return LabelledImages("imagenet_r", names_of(list(held_out)), known.splits[split].templates, train, test)
