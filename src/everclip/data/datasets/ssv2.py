"""Something-Something V2 from its videos and lists; the validation clips, with published labels, are for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, listed, read_json
from everclip.data.datasets.spec import spec
from everclip.data.images import Form
from everclip.data.video.form import USUAL
from everclip.errors import DataError


def load(*, root: str, split: Literal["official"] = "official", clips: Form = USUAL) -> LabelledImages:
    """Something-Something V2 below `root`: 174 ways to handle something, many told apart by direction alone.

    Raises:
        MissingError: a list or clip is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("ssv2")
    folder = known.require(Path(root), split)
    labels_list, *lists = (folder / file for file in known.splits[split].files)
    try:
        labels = {name: int(number) for name, number in read_json(labels_list).items()}
        parts = [_items(read_json(source), labels, folder / known.needs[0]) for source in lists]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{labels_list.parent} holds no lists of {known.title} ({error!r})") from error
    train, test = (
        listed(own, len(labels), folder, known.title, source, clips) for own, source in zip(parts, lists, strict=True)
    )
    names = tuple(name.lower() for name, _ in sorted(labels.items(), key=lambda item: item[1]))
    return LabelledImages(known.key, names, known.splits[split].templates, train.trained, test)


def _items(content: list[dict[str, str]], labels: dict[str, int], videos: Path) -> list[Item]:
    """The class of a clip is its template without the brackets around what differs."""
    return [
        (videos / f"{entry['id']}.webm", labels[entry["template"].replace("[", "").replace("]", "")])
        for entry in content
    ]
