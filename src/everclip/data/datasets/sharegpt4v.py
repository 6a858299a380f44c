"""ShareGPT4V: long captions of GPT-4V, or of the captioner trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions.formats import read_list
from everclip.data.captions.pair_list import Broken, collect
from everclip.data.captions.samples import CaptionedData, samples
from everclip.data.datasets.spec import spec
from everclip.errors import DataError

JUDGED = 1000  # the first of the list


def load(*, root: str, split: Literal["gpt4v", "captioner"] = "gpt4v", broken: Broken = "refuse") -> CaptionedData:
    """ShareGPT4V below `root`: one caption of some 150 words per picture; the first 1,000 are for testing.

    So Long-CLIP divides the list of the captioner (beichenzbc/Long-CLIP @ 3966af9, `train/sharegpt4v.py`).

    Args:
        root: of the data.
        split: `gpt4v`: the 100,000 captions of GPT-4V; `captioner`: the 1.2 million of the captioner.
        broken: see `collect`.

    Raises:
        MissingError: the list or the pictures are not there.
        DataError: the list has another form, or names pictures that are not there.
    """
    known = spec("sharegpt4v")
    folder = known.require(Path(root), split)
    (name,) = known.splits[split].files
    pairs = read_list(folder / name, folder / "data")
    entries, notes = collect(pairs, broken, published=True)
    test, train = ([entry for entry in entries if (entry.place < JUDGED) == judged] for judged in (True, False))
    if not train or not test:
        raise DataError(
            f"{folder / name} has {len(test)} of the first {JUDGED:,} pictures, which are for testing, and "
            f"{len(train)} behind"
        )
    return CaptionedData("sharegpt4v", samples(pairs, train), samples(pairs, test), notes=tuple(notes))
