"""ImageNet-100: 100 classes of ImageNet-1k, read from the same class folders, labelled in sorted order."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.imagenet_folders import train_and_val, wnids
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["seed1993", "first"] = "seed1993") -> LabelledImages:
    """ImageNet-100 below `root`.

    Args:
        root: of the data.
        split: which classes: those that NumPy draws with seed 1993 (LUCIR and its successors), or the first 100
            (Continual-CLIP, ZSCL).

    Raises:
        MissingError: a class's folder is not there or empty.
    """
    return train_and_val(spec("imagenet100"), Path(root), split, subset(split))


def subset(split: str) -> list[str]:
    """The chosen classes, sorted."""
    if split == "first":
        return wnids()[:100]
    return sorted(np.random.RandomState(1993).choice(wnids(), 100, replace=False).tolist())
