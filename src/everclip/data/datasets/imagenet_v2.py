"""ImageNetV2 (matched frequency) from its folders `0/` to `999/`; for testing only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.imagenet_folders import only_test, wnids
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["test_only"] = "test_only") -> LabelledImages:
    """ImageNetV2 below `root`: the classes of ImageNet-1k, whose numbers are the names of the folders.

    Raises:
        MissingError: a class's folder is not there or empty.
    """
    numbers = [str(label) for label in range(len(wnids()))]
    return only_test(spec("imagenet_v2"), Path(root), wnids(), numbers)
