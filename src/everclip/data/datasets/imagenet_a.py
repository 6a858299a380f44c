"""ImageNet-A from its class folders `<wnid>/`: natural adversarial examples of 200 classes; for testing only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.imagenet_folders import only_test, wnids_in
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["test_only"] = "test_only") -> LabelledImages:
    """ImageNet-A below `root`: those 200 classes of ImageNet-1k that have folders, in sorted order.

    Raises:
        MissingError: a class's folder is empty.
        DataError: more or fewer classes have folders.
    """
    known = spec("imagenet_a")
    folder = known.require(Path(root), split)
    chosen = wnids_in(folder, known.splits[split].classes, known.title)
    return only_test(known, Path(root), chosen)
