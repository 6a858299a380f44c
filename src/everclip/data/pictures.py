"""What is wrong with files of pictures or clips, found without decoding all: damaged ones, and ones that are equal."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from hashlib import file_digest
from pathlib import Path

from everclip.data.files import ends
from everclip.data.images import FileImages, Form
from everclip.errors import DataError
from everclip.storage import in_threads


def damages(paths: Sequence[Path], form: Form, deep: bool = False) -> dict[Path, str]:
    """Why files of a form cannot be read, see `Form.damage`, without those that are whole."""
    found = zip(paths, in_threads(partial(form.damage, deep=deep), paths), strict=True)
    return {path: why for path, why in found if why}


def shared(parts: Mapping[str, FileImages]) -> list[str]:
    """What is said of pictures that are equal byte for byte, a text for each way to be; not of folders of frames.

    Args:
        parts: pictures by what they are for; those of the first count as there before those of the second.

    Raises:
        DataError: a file cannot be read.
    """
    title = next((images.form.title for images in parts.values()), "")
    paths = [path for images in parts.values() for path in images.paths]
    labels = [label for images in parts.values() for label in images.labels.tolist()]
    part = [name for name, images in parts.items() for _ in images.paths]
    found: dict[str, list[tuple[int, int]]] = {}
    for later, first in _equal(paths):
        there = "there twice" if part[later] == part[first] else f"{part[first]} {title}s too"
        found.setdefault(f"{part[later]} {title}s are {there}", []).append((later, first))
        if labels[later] != labels[first]:
            text = f"{title}s are of another class than the same {title} elsewhere"
            found.setdefault(text, []).append((later, first))
    return [
        f"{len(pairs)} {text}, byte for byte; one is {paths[pairs[0][0]]}, the same as {paths[pairs[0][1]]}"
        for text, pairs in found.items()
    ]


def _equal(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Positions of files and of the first file that each is equal to, in the order of the files."""
    looks: tuple[Callable[[Path], Hashable], ...] = (_size, _hash_of_ends, _sha256)
    groups = [[position for position, path in enumerate(paths) if not path.is_dir()]]
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


def _hash_of_ends(path: Path) -> int:
    return hash(ends(path))


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()
