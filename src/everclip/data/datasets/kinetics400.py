"""Kinetics-400 from its videos and lists; the validation clips are for testing, clips that are gone are left out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.clip_lists import ClipFiles
from everclip.data.datasets.layouts import Item, listed
from everclip.data.datasets.spec import spec
from everclip.data.files import Table, read_bytes
from everclip.data.images import Form
from everclip.data.video.form import USUAL
from everclip.errors import DataError, MissingError

log = logging.getLogger("everclip")


def load(*, root: str, split: Literal["official"] = "official", clips: Form = USUAL) -> LabelledImages:
    """Kinetics-400 below `root`: 400 actions, of whose clips the publishers of the videos take some away.

    Raises:
        MissingError: a list is not there, or no clip of one.
        DataError: a list has another form than its publisher's.
    """
    known = spec("kinetics400")
    folder = known.require(Path(root), split)
    place = ClipFiles(folder, clips)
    lists = [folder / file for file in known.splits[split].files]
    named = [_read(source) for source in lists]
    labels = {name: label for label, name in enumerate(sorted({name for own in named for _, name in own}))}
    parts = []
    for source, own in zip(lists, named, strict=True):
        if not own:
            raise DataError(f"{source} lists no clips")
        there: list[Item] = []
        for clip, name in own:
            try:
                there.append((place.of(clip, known.title, source), labels[name]))
            except MissingError as error:
                absent = error
        if not there:
            raise absent
        if gone := len(own) - len(there):
            log.warning("%s: %d of %d clips of %s are not there and left out", known.title, gone, len(own), source.name)
        parts.append(listed(there, len(labels), folder, known.title, source, clips))
    return LabelledImages(known.key, tuple(labels), known.splits[split].templates, parts[0].trained, parts[1])


def _read(source: Path) -> list[tuple[str, str]]:
    """The name of each clip's file, and its class."""
    table = Table(source, read_bytes(source).decode("utf-8-sig", "replace"))
    try:
        return [
            (f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}", row["label"])
            for _, row in table
        ]
    except (KeyError, ValueError) as error:
        raise DataError(f"{source} is no list of Kinetics: expected label,youtube_id,time_start,time_end") from error
