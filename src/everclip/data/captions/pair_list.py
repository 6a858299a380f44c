"""Image-text pairs as a list gives them; what of them cannot be used is named, then refused or left out."""

from __future__ import annotations

import logging
import posixpath
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from everclip.data.images import PICTURES, FileImages, Form
from everclip.errors import ConfigError, DataError
from everclip.types import NO_CLASS, Samples

log = logging.getLogger("everclip")

Broken = Literal["refuse", "leave_out"]
PARTS = ("train", "val", "test")  # of a picture that is in several, the last is the one to keep
NOT_THERE, EMPTY, TWICE = "captions of pictures that are not there", "empty captions", "captions twice at a picture"
LOOKED_FOR = 10
LEAVE_OUT = (
    "sequence.broken=leave_out (sequence.dataset.broken of sequence=pairs, sequence.domains.broken of CTVR's sessions)"
)
SHARED, AGAIN = "pictures in two splits", "pictures in two sessions"


@dataclass(frozen=True, slots=True)
class Row:
    """One caption and what the list says of it.

    Attributes:
        picture: which, as the list calls it.
        text: stripped; empty where a picture has no caption.
        place: its number in the list, see `PairList.unit`.
        split: one of `PARTS`, empty where the list does not say.
        session: the name of one, empty where the list does not say.
    """

    picture: str
    text: str
    place: int
    split: str = ""
    session: str = ""


class PairList(ABC):
    """A list that was read.

    Attributes:
        source: the file, or the folder of the files.
        rows: its captions, in order.
        unit: what `Row.place` counts.
    """

    source: Path
    rows: Sequence[Row]
    unit: str = "line"

    @abstractmethod
    def missing(self, picture: str) -> str:
        """Why a picture cannot be read, empty where nothing is known against it."""

    @abstractmethod
    def pictures(self, names: Sequence[str]) -> Samples:
        """The pictures of these names, without labels."""


def check_views(form: Form) -> Form:
    """A form that shows every clip once.

    Raises:
        ConfigError: it shows several views, over which only probabilities of classes are averaged.
    """
    if form.trained != form:
        raise ConfigError(
            "clips.views and clips.crops average what classes a clip is taken for; captions are compared with one view"
        )
    return form


class FileList(PairList):
    """A list of pictures in files.

    Args:
        source: the list.
        rows: whose pictures are paths.
        folders: that paths may start from; the first that has one of the first pictures is taken.
        unit: what `Row.place` counts.
        form: what is made of a file.

    Raises:
        ConfigError: see `check_views`.
        DataError: a path leads out of the folder.
    """

    def __init__(
        self,
        source: Path,
        rows: Sequence[Row],
        folders: Sequence[Path],
        unit: str = "line",
        form: Form = PICTURES,
    ) -> None:
        self.source, self.rows, self.unit, self._form = source, rows, unit, check_views(form)
        for picture, row in {row.picture: row for row in reversed(rows)}.items():
            if posixpath.isabs(picture) or posixpath.normpath(picture).split("/")[0] == "..":
                raise DataError(f"{source}, {unit} {row.place}: {picture} is not below {folders[0]}")
        first = dict.fromkeys(row.picture for row in rows[:LOOKED_FOR] if row.picture)
        having = (folder for folder in folders if any(_is_there(folder / picture) for picture in first))
        self.folder = next(having, folders[0])
        self._there: dict[Path, set[str]] = {}

    def missing(self, picture: str) -> str:
        path = self.folder / posixpath.normpath(picture)
        if path == self.folder:
            return "no picture is named"
        if path.parent not in self._there:
            try:
                own = path.parent.iterdir() if path.parent.is_dir() else ()
                self._there[path.parent] = {entry.name for entry in own}
            except OSError as error:
                return f"{path} cannot be read: {error.strerror}"
        return "" if path.name in self._there[path.parent] else f"{path} is not there"

    def pictures(self, names: Sequence[str]) -> FileImages:
        paths = [self.folder / posixpath.normpath(name) for name in names]
        return FileImages(paths, np.full(len(paths), NO_CLASS, np.int64), self.folder, [self.source], self._form)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, for one
        return False


@dataclass
class Entry:
    """A picture with all its captions in one split and session; `place` is where the first stands."""

    picture: str
    split: str
    session: str
    place: int
    texts: list[str] = field(default_factory=list)


class Faults:
    """What cannot be used of a list, by kind and place.

    Attributes:
        texts: one for each.
    """

    def __init__(self, pairs: PairList) -> None:
        self._pairs = pairs
        self._counts: Counter[str] = Counter()
        self.texts: list[str] = []

    def add(self, kind: str, place: int, what: str) -> None:
        """Notes one."""
        self._counts[kind] += 1
        self.texts.append(f"{self._pairs.source}, {self._pairs.unit} {place}: {what}")

    def settle(self, broken: Broken) -> None:
        """Says what was left out.

        Raises:
            DataError: there is something, and it is to be refused.
        """
        if not self._counts:
            return
        counted = ", ".join(f"{count:,} {kind}" for kind, count in self._counts.items())
        if broken == "refuse":
            more = f" (in all {counted})" if self._counts.total() > 1 else ""
            raise DataError(f"{self.texts[0]}{more}; mend the list, or leave such pairs out with {LEAVE_OUT}")
        log.warning("%s: left out %s; the first: %s", self._pairs.source, counted, self.texts[0])


def collect(pairs: PairList, broken: Broken = "refuse", *, published: bool = False) -> tuple[list[Entry], list[str]]:
    """The pictures of a list with all their captions, in order of appearance, and what is to be known of it.

    Args:
        pairs: the list.
        broken: `refuse` it where a picture is not there or in two splits, where a caption is empty or stands twice at a
            picture; or `leave_out` such captions, and training pictures that are judged by as well.
        published: captions that stand twice are kept, for results to be comparable, and told.

    Raises:
        DataError: the list is refused, nothing is left of it, or some pictures have a split and others none.
    """
    kept, faults, notes = sorted_out(pairs, published=published)
    faults.settle(broken)
    if not kept:
        raise DataError(f"{pairs.source} lists no image-text pairs")
    return kept, notes


def sorted_out(pairs: PairList, *, published: bool = False) -> tuple[list[Entry], Faults, list[str]]:
    """What `collect` keeps of a list, what cannot be used of it, and what is to be known.

    Raises:
        DataError: some pictures have a split and others none.
    """
    faults, notes = Faults(pairs), []
    entries: dict[tuple[str, str, str], Entry] = {}
    seen: set[tuple[int, str]] = set()
    twice: list[Row] = []
    missing = {picture: pairs.missing(picture) for picture in dict.fromkeys(row.picture for row in pairs.rows)}
    names = {picture: posixpath.normpath(picture) for picture in missing}
    for row in pairs.rows:
        if why := missing[row.picture]:
            faults.add(NOT_THERE, row.place, why)
        elif not row.text:
            faults.add(EMPTY, row.place, f"{row.picture} has an empty caption")
        else:
            key = (names[row.picture], row.split, row.session)
            entry = entries.get(key) or entries.setdefault(key, Entry(*key, row.place))
            again = (id(entry), row.text) in seen
            if again and not published:
                faults.add(TWICE, row.place, f"{row.picture} has the caption {row.text!r} already")
                continue
            seen.add((id(entry), row.text))
            entry.texts.append(row.text)
            twice += [row] if again else []
    if twice:
        place = f"{pairs.source}, {pairs.unit} {twice[0].place}"
        notes.append(f"{len(twice):,} captions stand twice at their picture and are kept; one is {place}")
    bare = [entry for entry in entries.values() if not entry.split]
    if 0 < len(bare) < len(entries):
        raise DataError(
            f"{pairs.source}, {pairs.unit} {bare[0].place}: {bare[0].picture} has no split, as others have; name "
            "it for all or for none"
        )
    return _in_one_split(list(entries.values()), faults), faults, notes


def _in_one_split(entries: list[Entry], faults: Faults) -> list[Entry]:
    """The entries without those whose picture a later split has too, or an earlier session that is yet to be split."""
    last: dict[str, Entry] = {}
    for entry in entries:
        known = last.setdefault(entry.picture, entry)
        if entry.split in PARTS and PARTS.index(entry.split) > PARTS.index(known.split):
            last[entry.picture] = entry
    kept = []
    for entry in entries:
        other = last[entry.picture]
        if entry.split != other.split:
            what = f"{entry.picture} is in split {entry.split} here, in {other.split} at {other.place}"
            faults.add(SHARED, entry.place, what)
        elif not entry.split and entry.session != other.session:  # a test set drawn of one would be trained on in both
            faults.add(AGAIN, entry.place, f"{entry.picture} is in another session at {other.place}, without a split")
        else:
            kept.append(entry)
    return kept
