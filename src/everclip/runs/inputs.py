"""What a run was read from: places whose sizes and times tell at once whether to look closer. Needs no torch.

A place is a file, the files in a folder, or the folders in one; its stamp changes when the place does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from everclip.digest import json_sha256
from everclip.storage import in_threads

Place = tuple[str, str]  # kind and absolute path
WHOLE = 2**30  # bytes of a set that are read; of larger sets, parts of every file
PART = 2**14


def places(files: Iterable[Path], named: Iterable[Path]) -> list[Place]:
    """Where a change of these files, of their names and number, or of what settings name would be seen.

    Args:
        files: read one by one, of which there may be a million: known by their folders.
        named: files and folders.
    """
    found: dict[Place, None] = {}
    for path in named:
        found |= dict.fromkeys([("file" if path.is_file() else "files", os.path.abspath(path))])
    for folder in dict.fromkeys(path.parent for path in files):
        found |= dict.fromkeys([("files", os.path.abspath(folder)), ("folders", os.path.abspath(folder.parent))])
    return list(found)


def stamped(known: Iterable[Place]) -> list[tuple[str, str, str]]:
    """Places with their stamps, as a run folder keeps them."""
    return [(kind, path, _stamp(kind, path)) for kind, path in known]


def changed(stored: Iterable[Sequence[str]]) -> list[str]:
    """The paths of places that are no longer as `stamped` found them."""
    return list(dict.fromkeys(path for kind, path, stamp in stored if _stamp(kind, path) != stamp))


def _stamp(kind: str, path: str) -> str:
    try:
        if kind == "file":
            found = os.stat(path)
            return f"{found.st_size} {found.st_mtime_ns}"
        with os.scandir(path) as entries:
            if kind == "folders":
                return json_sha256(sorted(entry.name for entry in entries if entry.is_dir()))[:16]
            stats = {entry.name: entry.stat() for entry in entries if entry.is_file()}
        return json_sha256({name: [found.st_size, found.st_mtime_ns] for name, found in stats.items()})[:16]
    except OSError as error:
        return str(error.strerror)


def contents_sha256(files: Sequence[Path]) -> str:
    """Hex digest of the bytes in files, in their order; of beginning, middle and end of each where they are large.

    Raises:
        OSError: a file cannot be read.
    """
    whole = sum(os.stat(path).st_size for path in files) <= WHOLE

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if whole or size <= 3 * PART:
                return sha256(file.read()).hexdigest()
            parts = sha256(str(size).encode())
            for start in (0, (size - PART) // 2, size - PART):
                file.seek(start)
                parts.update(file.read(PART))
            return parts.hexdigest()

    return json_sha256(in_threads(digest, files))
