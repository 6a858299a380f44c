"""The user's own image-text pairs: a list, a folder with one, or WebDataset's tar files."""

from __future__ import annotations

import logging
from pathlib import Path

from everclip.data.captions.formats import read_list
from everclip.data.captions.pair_list import LEAVE_OUT, PARTS, Broken, Entry, PairList, collect
from everclip.data.captions.samples import CaptionedData, divided, samples
from everclip.data.captions.shards import ShardList
from everclip.data.images import PICTURES, FileImages, Form
from everclip.data.sequences.folder import Share, folders
from everclip.data.sequences.own_pictures import readable, warn_of_twins
from everclip.errors import DataError, MissingError

log = logging.getLogger("everclip")

LISTS = ("captions.jsonl", "metadata.jsonl", "captions.csv", "captions.txt", "results.csv", "captions.json")


def load(
    *,
    root: str,
    pictures: str | None = None,
    test_share: Share = 0.2,
    test_seed: int = 0,
    broken: Broken = "refuse",
    clips: Form | None = None,
    name: str | None = None,
) -> CaptionedData:
    """Image-text pairs of one's own.

    Args:
        root: a list of captions, a folder that has one of `LISTS`, or a tar file or folder of tar files of WebDataset.
        pictures: folder that the paths of a list start from; None: the list's own, or a folder of pictures in it.
        test_share: part of the pictures that is for testing where the list does not say.
        test_seed: of the choice of these.
        broken: see `collect`.
        clips: what is made of a file; None: a picture.
        name: of the data; None: after `root`.

    Raises:
        MissingError: there is no such list.
        DataError: it cannot be used.
    """
    place = Path(root).expanduser()
    pairs = find(place, None if pictures is None else Path(pictures).expanduser(), clips or PICTURES)
    if pairs is None:
        raise MissingError(f"{place} holds no captions; expected {', '.join(LISTS)}, or *.tar of WebDataset")
    entries, _ = collect(pairs, broken)
    return data_of(name or title_of(place), pairs, entries, test_share, test_seed, broken)


def lists(place: Path, form: Form = PICTURES) -> dict[str, PairList]:
    """The list at a place, or those in its folders, by what sessions are called then.

    Raises:
        MissingError: there is none.
        DataError: one cannot be read.
    """
    if (whole := find(place, form=form)) is not None:
        return {title_of(place): whole}
    found = {title: own for title in folders(place) if (own := find(place / title, form=form)) is not None}
    if not found:
        raise MissingError(
            f"{place} holds neither captions.jsonl, captions.csv, captions.txt or *.tar, nor folders that do"
        )
    return found


def title_of(place: Path) -> str:
    """What a list or folder is called."""
    resolved = place.resolve()
    own = place.is_file() and resolved.name not in LISTS
    return resolved.stem if own else (resolved.parent if place.is_file() else resolved).name


def find(place: Path, pictures: Path | None = None, form: Form = PICTURES) -> PairList | None:
    """The list at a place, None if it is a folder without any.

    Raises:
        MissingError: nothing is there.
        DataError: a list cannot be read.
    """
    if not place.exists():
        raise MissingError(f"{place} is not there; give a list of captions, or a folder that has one")
    try:
        if not place.is_dir():
            return ShardList(place, [place]) if place.suffix == ".tar" else read_list(place, pictures, form)
        there = [place / name for name in LISTS if (place / name).is_file()]
        if there:
            if there[1:]:
                log.info("reading %s, not %s", there[0], ", ".join(path.name for path in there[1:]))
            return read_list(there[0], pictures, form)
        shards = sorted([*place.glob("*.tar"), *(p for part in PARTS for p in place.glob(f"{part}/*.tar"))])
        return ShardList(place, shards) if shards else None
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def data_of(
    name: str, pairs: PairList, entries: list[Entry], test_share: float, test_seed: int, broken: Broken
) -> CaptionedData:
    """Entries as data, divided, without damaged files; warns of pictures that are equal byte for byte.

    Raises:
        DataError: there are damaged files, and `broken` is `refuse`.
    """
    files = pairs.pictures([entry.picture for entry in entries])
    if isinstance(files, FileImages):
        entries = [entries[index] for index in readable(files.paths, files.form, broken, LEAVE_OUT)]
    if not entries:
        raise DataError(f"{pairs.source}: {name} has damaged files alone")
    train, val, test = (samples(pairs, part) for part in divided(entries, test_share, test_seed))
    if isinstance(train.pictures, FileImages) and isinstance(test.pictures, FileImages):
        warn_of_twins(train.pictures, test.pictures)
    counts = len(train), len(val), len(test), "pictures" if test.num_frames is None else "clips"
    log.info("%s: %d training, %d validation, %d test %s", name, *counts)
    return CaptionedData(name, train, test, val)
