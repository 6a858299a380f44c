"""Sessions of captioned clips as CTVR divides published data: pickles of clips by category by session, read as data.

Source: arXiv 2503.10111, official code JasonCodeMaker/CTVR @ 72b7652 (data/*.pkl, datasets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from everclip.data.captions.clip_list import ClipList, rows_of
from everclip.data.captions.pair_list import Broken, Row, collect
from everclip.data.captions.samples import CaptionedData, samples
from everclip.data.datasets.clip_lists import read_plain_pickle
from everclip.data.images import Form
from everclip.errors import DataError

Captions = Mapping[str, Sequence[str]]


def listed(source: Path, train: Captions, test: Captions, folder: Path, clips: Form, ending: str = "") -> ClipList:
    """The pairs of all sessions, whose rows say which they are in.

    Args:
        source: the pickle.
        train: captions of clips for training.
        test: captions that clips are judged by.
        folder: below which the clips are.
        clips: how files become clips.
        ending: of clips' names in `train` and `test`, which the pickle does not have.

    Raises:
        DataError: the pickle has another form.
    """
    content, rows = read_plain_pickle(source), list[Row]()
    try:
        for number in content["train"]:
            for part, key, texts in (("train", "train", train), ("test", "val", test)):
                own = [f"{clip}{ending}" for category in content[key][number].values() for clip in category]
                rows += rows_of(texts, own, part, str(number), len(rows) + 1)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source} is no list of CTVR: expected clips by category by session ({error!r})") from error
    return ClipList(source, rows, folder, clips)


def sessions(pairs: ClipList, broken: Broken) -> list[CaptionedData]:
    """The sessions of such a list, in order.

    Raises:
        DataError: clips are not there, see `collect`.
    """
    entries, notes = collect(pairs, broken, published=True)
    data = []
    for number in dict.fromkeys(row.session for row in pairs.rows):
        train, test = (
            samples(pairs, [entry for entry in entries if (entry.split, entry.session) == (part, number)])
            for part in ("train", "test")
        )
        data.append(CaptionedData(f"session_{number}", train, test, notes=tuple(notes)))
    return data
