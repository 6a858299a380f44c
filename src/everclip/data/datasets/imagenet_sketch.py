"""ImageNet-Sketch from its class folders `<wnid>/`; for testing only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.imagenet_folders import only_test, wnids
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["test_only"] = "test_only") -> LabelledImages:
    """ImageNet-Sketch below `root`: the classes of ImageNet-1k.

    Raises:
        MissingError: a class's folder is not there or empty.
    """
    return only_test(spec("imagenet_sketch"), Path(root), wnids())
