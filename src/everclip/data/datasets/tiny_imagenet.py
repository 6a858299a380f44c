"""Tiny-ImageNet-200 from `tiny-imagenet-200/`; the validation pictures are the test set, as everywhere in the field."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.imagenet_folders import names_of
from everclip.data.datasets.layouts import Item, class_folder, listed, read_items, read_lines
from everclip.data.datasets.spec import spec
from everclip.errors import DataError


def load(*, root: str, split: Literal["official"] = "official") -> LabelledImages:
    """Tiny-ImageNet below `root`: 200 classes in the order of `wnids.txt`, named in CLIP's words.

    Raises:
        MissingError: a list or picture is not there.
        DataError: a list has another form than the publisher's.
    """
    known = spec("tiny_imagenet")
    folder = known.require(Path(root), split)
    wnids = read_lines(folder / "wnids.txt")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    try:
        names = names_of(wnids)
    except KeyError as error:
        raise DataError(f"{folder / 'wnids.txt'}: {error} is no class of ImageNet") from error

    def parse(line: str) -> Item:
        picture, wnid, *_ = line.split("\t")
        return folder / "val" / "images" / picture, labels[wnid]

    train_items = [
        (path, labels[wnid]) for wnid in wnids for path in class_folder(folder / "train" / wnid / "images", known.title)
    ]
    annotations = folder / "val" / "val_annotations.txt"
    train = listed(train_items, len(wnids), folder, known.title, folder / "wnids.txt")
    test = listed(read_items(annotations, parse), len(wnids), folder, known.title, annotations)
    return LabelledImages("tiny_imagenet", names, known.splits[split].templates, train, test)
