"""Files that are replaced whole (a reader sees the old content or the new, never half of it), and looked at by many."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import yaml

from everclip.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST_YAML = 2**22  # bytes
DEEPEST_YAML = 40
ABANDONED = 3600.0  # seconds without a write after which a half-written file is nobody's
CHUNK = 64  # items that a thread takes at a time: handing over one costs as much as looking at a small file
WAITING = 4  # threads of a core, most of which wait for a disk or a network

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file written aside, flushed to the disk and renamed to `path` when the block ends; makes the parent folder.

    Raises:
        StorageError: the disk is full, or the place is not to be written to; the old content is still there.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            _flush_folder(path.parent)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; nothing written earlier is damaged, and the same "
            "command goes on once there is room and permission"
        ) from error


def remove_abandoned(folder: Path, name: str = "*") -> None:
    """Deletes what writers of files of this name that were killed have left; a living one writes all the time."""
    for aside in folder.glob(f".{name}.*.tmp"):
        with suppress(OSError):  # another run does the same
            if time.time() - aside.stat().st_mtime > ABANDONED:
                aside.unlink()


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A folder to be filled, renamed to `folder` when the block ends; of several made at a time the first stays.

    Raises:
        StorageError: the disk is full, or the place is not to be written to.
    """
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        aside.mkdir(parents=True)
        try:
            yield aside
            with suppress(FileExistsError):
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():  # another process was faster
            return
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}; make room, or choose another"
        ) from error


def check_yaml(path: Path) -> None:
    """Looks whether a configuration is as simple as a stored one: a small one of a stranger may stand for any size.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is no YAML, is large or deep, or repeats parts by aliases.
    """
    depth = 0
    try:
        if path.stat().st_size > LARGEST_YAML:
            raise ConfigError(f"{path} has more than {LARGEST_YAML >> 20} MB, which no configuration has")
        for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=YAML):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST_YAML:
                raise ConfigError(f"{path} has aliases or is nested deeply, as no stored configuration is")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the content of a file, as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


def _flush_folder(folder: Path) -> None:
    """Makes a rename last through a power cut."""
    with suppress(OSError):  # file systems that cannot flush a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON; NaN is refused, write None instead."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Writes a NumPy array without pickled objects."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What a function gives for each item, in their order; what it raises for the first that fails is raised."""
    if len(items) <= CHUNK:
        return [function(item) for item in items]
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    with ThreadPoolExecutor(min(WAITING * (os.cpu_count() or 1), 64)) as pool:
        done = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        return [result for results in done for result in results]
