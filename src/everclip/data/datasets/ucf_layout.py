"""The layout of UCF101: a folder of clips for each class, and lists of training and test clips that share no scene."""

from __future__ import annotations

import re
from pathlib import Path

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, listed, read_items, read_lines
from everclip.data.images import Form
from everclip.errors import DataError

LISTS = "ucfTrainTestlist"


def read_layout(
    folder: Path, videos: str, split: str, form: Form, *, name: str, title: str, templates: tuple[str, ...]
) -> LabelledImages:
    """A data set with the lists `ucfTrainTestlist/{classInd,trainlist0X,testlist0X}.txt`.

    Args:
        folder: of the data set.
        videos: the folder in it that the lists' paths start from.
        split: X.
        form: how files become clips.
        name: of the data set.
        title: of the data set, for messages.
        templates: of the prompts.

    Raises:
        MissingError: a clip is not there.
        DataError: a list has another form than its publisher's.
    """
    lists = folder / LISTS
    labels = {}
    for number, line in enumerate(read_lines(lists / "classInd.txt"), start=1):
        label, _, own = line.partition(" ")
        if not label.isdecimal() or int(label) != number or not own:
            raise DataError(f"{lists / 'classInd.txt'}, line {number}: {line!r} must be the number and name of a class")
        labels[own.strip()] = number - 1

    def parse(line: str) -> Item:
        file = line.split(" ")[0]
        return folder / videos / file, labels[file.split("/")[0]]

    parts = []
    for part in ("train", "test"):
        source = lists / f"{part}list{int(split):02d}.txt"
        parts.append(listed(read_items(source, parse), len(labels), folder, title, source, form))
    return LabelledImages(name, tuple(map(spoken, labels)), templates, parts[0].trained, parts[1])


def spoken(name: str) -> str:
    """`ApplyEyeMakeup`, `brush_hair` or `TaiChi` in words."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("_", " ")).lower().split())
