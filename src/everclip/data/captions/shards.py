"""Image-text pairs in tar files as WebDataset has them: members of one name are one pair, told apart by their endings.

Source: webdataset/webdataset, "The WebDataset Format": a key is a member's path up to the first dot of its file name.
Only headers and captions are read at first; a picture is read out of its place in the tar file when it is asked for.
"""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everclip.data.captions.pair_list import PairList, Row
from everclip.data.files import check_regular
from everclip.data.images import decode
from everclip.digest import json_sha256
from everclip.errors import DataError
from everclip.types import NO_CLASS, Batch, Draw, Indices, Prepare, Samples

PICTURES = ("jpg", "jpeg", "png", "webp")
CAPTIONS = ("txt", "json")  # the first that a pair has
CAPTION_LIMIT = 2**20  # bytes of a caption
PICTURE_LIMIT = 2**29  # bytes of a picture
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)  # a pair's key and an ending; others are no part of one
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture is: in which tar file, under what name, from which byte on, and how many."""

    shard: Path
    member: str
    start: int
    size: int


class ShardImages(Samples):
    """Pictures in tar files, decoded when asked for.

    Args:
        places: of the pictures.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self.labels = np.full(len(places), NO_CLASS, np.int64)
        self.files = tuple(dict.fromkeys(place.shard for place in places))

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        shown = [draw.showing(prepare, i) if draw else prepare for i in indices]
        pictures = [show(_picture(self._places[i])) for i, show in zip(indices, shown, strict=True)]
        return self.batch(torch.stack(pictures), indices)

    def subset(self, indices: Sequence[int] | Indices) -> ShardImages:
        return ShardImages([self._places[i] for i in indices])

    def fingerprint(self) -> str:
        return json_sha256([[place.shard.name, place.member, place.size] for place in self._places])

    def version(self) -> str:
        found = [(path.name, path.stat()) for path in self.files]
        shards = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found]
        return json_sha256([shards, [[place.shard.name, place.member, place.size] for place in self._places]])


def _picture(place: Place) -> Any:
    try:
        with place.shard.open("rb") as file:
            file.seek(place.start)
            content = BytesIO(file.read(place.size))
    except OSError as error:
        raise DataError(f"{place.shard} cannot be read: {error.strerror}") from error
    return decode(content, f"{place.shard}: {place.member}")


class ShardList(PairList):
    """The pairs of tar files; the split is the first word of a file's name or folder, where that is one.

    Args:
        source: the tar file, or their folder.
        shards: the tar files, in order.

    Raises:
        DataError: one cannot be read, is compressed, or has a pair of another form.
    """

    unit = "pair"

    def __init__(self, source: Path, shards: Sequence[Path]) -> None:
        self.source = source
        self._places: dict[str, Place] = {}
        self.rows: list[Row] = []
        for shard in shards:
            words = (re.split(r"[^a-z]", shard.name)[0], shard.parent.name)
            split = next((SPLITS[word] for word in words if word in SPLITS), "")
            for picture, texts in _pairs(shard):
                name = posixpath.normpath(f"{shard.relative_to(source.parent)}/{picture.member}")
                if name in self._places:
                    raise DataError(f"{shard} holds {picture.member!r} twice")
                self.rows += [Row(name, text, len(self._places), split) for text in texts or [""]]
                self._places[name] = picture

    def missing(self, picture: str) -> str:
        return ""

    def pictures(self, names: Sequence[str]) -> ShardImages:
        return ShardImages([self._places[name] for name in names])


def _pairs(shard: Path) -> Iterator[tuple[Place, list[str]]]:
    """Each picture of a tar file with its captions."""
    try:
        check_regular(shard)
        with tarfile.open(shard, "r:") as tar:
            key, picture, texts = "", None, dict[str, list[str]]()
            for member in tar:
                named = NAME.fullmatch(member.name)
                if member.isdir() or not named:
                    continue
                if not member.isreg() or member.issparse() or member.size < 0:
                    raise DataError(f"{shard} holds {member.name!r}, which is no plain file")
                own, ending = named[1], named[2].lower()
                if key not in ("", own):
                    yield _pair(shard, key, picture, texts)
                    picture, texts = None, {}
                key = own
                if ending in PICTURES:
                    if picture or member.size > PICTURE_LIMIT:
                        raise DataError(f"{shard}: {member.name!r} is the second picture of its pair, or too large")
                    picture = Place(shard, member.name, member.offset_data, member.size)
                elif ending in CAPTIONS:
                    texts[ending] = _captions(shard, tar, member)
            if key:
                yield _pair(shard, key, picture, texts)
    except tarfile.TarError as error:
        raise DataError(f"{shard} cannot be read as an uncompressed tar file: {error}") from error
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error}") from error


def _pair(shard: Path, key: str, picture: Place | None, texts: dict[str, list[str]]) -> tuple[Place, list[str]]:
    if picture is None:
        raise DataError(f"{shard}: {key!r} has no picture ({', '.join(PICTURES)})")
    return picture, next((texts[ending] for ending in CAPTIONS if ending in texts), [])


def _captions(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> list[str]:
    """The captions in a member; none in JSON that has none, as there is beside a text of its own."""
    stream = tar.extractfile(member)
    if member.size > CAPTION_LIMIT or stream is None:
        raise DataError(f"{shard}: {member.name!r} has more than {CAPTION_LIMIT >> 20} MB")
    try:
        text = stream.read().decode("utf-8")
        if member.name.lower().endswith(".txt"):
            return [text.strip()]
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shard}: {member.name!r} cannot be read: {error}") from error
    keys = [key for key in ("captions", "caption", "text") if isinstance(content, dict) and key in content]
    given: Any = content[keys[0]] if keys else content if isinstance(content, list) else []
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise DataError(f"{shard}: captions of {member.name!r} are no texts")
    return [each.strip() for each in texts]
