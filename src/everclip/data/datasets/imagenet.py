"""ImageNet-1k from class folders `{train,val}/<wnid>/`; the validation pictures are the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.imagenet_folders import train_and_val, wnids
from everclip.data.datasets.spec import spec


def load(*, root: str, split: Literal["coop"] = "coop") -> LabelledImages:
    """ImageNet-1k below `root`, classes in CLIP's words.

    Raises:
        MissingError: a class's folder is not there or empty.
    """
    return train_and_val(spec("imagenet"), Path(root), split, wnids())
