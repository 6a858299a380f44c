"""COCO captions: Karpathy's split, the publisher's of 2014 or 2017, or train2014 judged by Karpathy's test pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions.formats import read_list
from everclip.data.captions.pair_list import Broken, collect
from everclip.data.captions.samples import CaptionedData, by_part, samples
from everclip.data.datasets.spec import spec
from everclip.data.pairs import CaptionedImages
from everclip.types import Positive


def load(
    *,
    root: str,
    split: Literal["karpathy", "train2014", "2014", "2017"] = "karpathy",
    test_captions: Positive | None = 5,
    broken: Broken = "refuse",
) -> CaptionedData:
    """COCO captions below `root`.

    Args:
        root: of the data.
        split: `karpathy`: 113,287 (with `restval`), 5,000 and 5,000 pictures; `train2014`: the publisher's training
            pictures, which are none of Karpathy's test pictures; `2014`, `2017`: the publisher's, its validation
            pictures for testing.
        test_captions: of a picture, the first of its five to seven, as Karpathy's code takes them; None: all.
        broken: see `collect`.

    Raises:
        MissingError: a list or the pictures are not there.
        DataError: a list has another form than its publisher's, or names pictures that are not there.
    """
    known = spec("coco_captions")
    folder = known.require(Path(root), split)

    def official(year: str, part: str) -> tuple[CaptionedImages, list[str]]:
        pairs = read_list(folder / "annotations" / f"captions_{part}{year}.json", folder / f"{part}{year}")
        entries, notes = collect(pairs, broken, published=True)
        return samples(pairs, entries, test_captions if part == "val" else None), notes

    if split in ("2014", "2017"):
        (train, notes), (test, more) = (official(split, part) for part in ("train", "val"))
        return CaptionedData("coco_captions", train, test, notes=(*notes, *more))
    data = by_part("coco_captions", read_list(folder / "dataset_coco.json", folder), broken, test_captions)
    if split == "karpathy":
        return data
    train, notes = official("2014", "train")
    return CaptionedData("coco_captions", train, data.test, notes=(*notes, *data.notes))
