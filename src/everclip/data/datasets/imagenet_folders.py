"""ImageNet's pictures in class folders: the full set, subsets and relatives, named by WordNet ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from everclip.data.datasets.base import LabelledImages, split_lines
from everclip.data.datasets.layouts import class_folders, listed
from everclip.data.datasets.spec import DataSpec
from everclip.errors import DataError


def wnids() -> list[str]:
    """The 1000 classes, sorted: the label order of ImageNet."""
    return split_lines("imagenet", "wnids.txt")


def names_of(chosen: Sequence[str]) -> tuple[str, ...]:
    """The classes in CLIP's words."""
    known = dict(zip(wnids(), IMAGENET_CLASSNAMES, strict=True))
    return tuple(known[wnid] for wnid in chosen)


def train_and_val(spec: DataSpec, root: Path, split: str, chosen: Sequence[str]) -> LabelledImages:
    """The chosen classes from `train/<wnid>/` and, as the test set, `val/<wnid>/`.

    Raises:
        MissingError: a class's folder is not there or empty.
    """
    folder = spec.require(root, split)
    train, test = (
        listed(class_folders(folder / part, chosen, spec.title), len(chosen), folder, spec.title, folder / part)
        for part in ("train", "val")
    )
    return LabelledImages(spec.key, names_of(chosen), spec.splits[split].templates, train, test)


def only_test(
    spec: DataSpec, root: Path, chosen: Sequence[str], folders: Sequence[str] | None = None
) -> LabelledImages:
    """The chosen classes, all of their pictures for testing.

    Args:
        spec: of the data set, with a split `test_only`.
        root: of the data.
        chosen: the classes by their WordNet ids, label order.
        folders: of the classes, None where they have these names.

    Raises:
        MissingError: a class's folder is not there or empty.
    """
    place = spec.require(root, "test_only")
    items = class_folders(place, folders or chosen, spec.title)
    train, test = (listed(part, len(chosen), place, spec.title, place) for part in ([], items))
    return LabelledImages(spec.key, names_of(chosen), spec.splits["test_only"].templates, train, test)


def wnids_in(tree: Path, classes: int, title: str) -> list[str]:
    """The classes of a tree that has some of ImageNet's, sorted.

    Raises:
        DataError: there are more or fewer.
    """
    known = set(wnids())
    found = sorted(path.name for path in tree.iterdir() if path.name in known)
    if len(found) != classes:
        raise DataError(f"{tree} has folders of {len(found)} classes of ImageNet; {title} has {classes}")
    return found
