"""What is wrong with files of pictures, found without reading all of each: damaged ones, and ones that are equal."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from hashlib import file_digest
from pathlib import Path

from everclip.data.files import check_regular
from everclip.data.images import FileImages, read_image
from everclip.errors import DataError
from everclip.storage import in_threads

TAIL = 4096  # bytes: some programs write something of their own after a picture's end
ENDS = {  # how files of pictures begin and end; empty: nothing tells the end
    b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND", b"RIFF": b"", b"GIF8": b"", b"BM": b"", b"II*\0": b"",
    b"MM\0*": b"", b"P": b"",
}  # fmt: skip


def damage(path: Path, deep: bool = False) -> str:
    """Why a file cannot be read as a picture, empty where it can.

    Args:
        path: of the file.
        deep: decodes it even if it begins and ends as a picture does.
    """
    try:
        if deep or not _has_both_ends(path):
            read_image(path)
    except DataError as error:
        return str(error)
    return ""


def damages(paths: Sequence[Path], deep: bool = False) -> list[str]:
    """What `damage` says of files, without those that are whole."""
    return list(filter(None, in_threads(partial(damage, deep=deep), paths)))


def _has_both_ends(path: Path) -> bool:
    try:
        head, tail = _ends(path)
    except (OSError, DataError):
        return False
    return any(head.startswith(start) and end in tail for start, end in ENDS.items())


def shared(parts: Mapping[str, FileImages]) -> list[str]:
    """What is said of pictures that are equal byte for byte, a text for each way to be.

    Args:
        parts: pictures by what they are for; those of the first count as there before those of the second.

    Raises:
        DataError: a file cannot be read.
    """
    paths = [path for images in parts.values() for path in images.paths]
    labels = [label for images in parts.values() for label in images.labels.tolist()]
    part = [name for name, images in parts.items() for _ in images.paths]
    found: dict[str, list[tuple[int, int]]] = {}
    for later, first in _equal(paths):
        there = "there twice" if part[later] == part[first] else f"{part[first]} pictures too"
        found.setdefault(f"{part[later]} pictures are {there}", []).append((later, first))
        if labels[later] != labels[first]:
            text = "pictures are of another class than the same picture elsewhere"
            found.setdefault(text, []).append((later, first))
    return [
        f"{len(pairs)} {text}, byte for byte; one is {paths[pairs[0][0]]}, the same as {paths[pairs[0][1]]}"
        for text, pairs in found.items()
    ]


def _equal(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Positions of files and of the first file that each is equal to, in the order of the files."""
    looks: tuple[Callable[[Path], Hashable], ...] = (_size, _hash_of_ends, _sha256)
    groups = [list(range(len(paths)))]
    try:
        for look in looks:
            groups = [group for wide in groups for group in _grouped(wide, paths, look)]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    return sorted((later, first) for first, *others in groups for later in others)


def _grouped(positions: Sequence[int], paths: Sequence[Path], look: Callable[[Path], Hashable]) -> list[list[int]]:
    alike: dict[Hashable, list[int]] = {}
    for position, seen in zip(positions, in_threads(look, [paths[p] for p in positions]), strict=True):
        alike.setdefault(seen, []).append(position)
    return [group for group in alike.values() if len(group) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _ends(path: Path) -> tuple[bytes, bytes]:
    size = check_regular(path)
    with path.open("rb", buffering=0) as file:
        head = file.read(8)
        file.seek(max(size - TAIL, 0))
        return head, file.read(TAIL)


def _hash_of_ends(path: Path) -> int:
    return hash(_ends(path))


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()
