"""What a user's own pictures need to become a sequence: names, a test set, and a look for mistakes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from everclip.data.captions.pair_list import Broken
from everclip.data.files import read_bytes
from everclip.data.images import FileImages, Form
from everclip.data.pictures import damages, shared
from everclip.data.sequences.shots import choose_test
from everclip.errors import ConfigError, DataError, MissingError

log = logging.getLogger("everclip")
NAMED = 20  # damaged files


def read_text(path: Path, key: str) -> str:
    """The content of a text file, with or without a byte order mark.

    Args:
        path: of the file.
        key: the setting that names it.

    Raises:
        MissingError: no such file.
        DataError: it cannot be read as UTF-8 text.
    """
    try:
        return read_bytes(path.expanduser()).decode("utf-8-sig")
    except FileNotFoundError:
        raise MissingError(f"{key}={path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key}={path} cannot be read: {error}") from error


def listed(top: Path, given: str, place: str, *, folders: bool = False) -> Path:
    """The picture, or if `folders` the folder of frames, below `top` that a line of a list names by the path `given`.

    Raises:
        DataError: it is not there, or not below `top`; begins with `place`.
    """
    path = top / os.path.normpath(given)  # of a/../b there is b left, of ../b all
    if not path.is_relative_to(top) or ".." in path.relative_to(top).parts:
        raise DataError(f"{place}: {path} is not below {top}; set sequence.root to a folder that holds all")
    try:
        there = path.is_file() or (folders and path.is_dir())
    except OSError as error:
        raise DataError(f"{place}: {path} cannot be read: {error.strerror}") from error
    if not there:
        raise DataError(f"{place}: {path} is not there (sequence.root sets where paths start)")
    return path


def read_names(file: str | None, classes: Sequence[str]) -> list[str]:
    """A name for every class, each different.

    Args:
        file: a JSON object from class to name, or text with one name per line in the order of `classes`; None: the
            classes themselves with spaces for underscores and hyphens.
        classes: as folders or lists call them.

    Raises:
        MissingError: no such file.
        DataError: the file does not fit the classes, a name is empty, or two classes have the same (upper and lower
            case are the same to CLIP).
    """
    names = [name.replace("_", " ").replace("-", " ") for name in classes] if file is None else _read(file, classes)
    owner: dict[str, str] = {}
    for name, own in zip(names, classes, strict=True):
        key = " ".join(name.casefold().split())
        if not key:
            raise DataError(f"class {own!r} has an empty name; give it one with sequence.names=FILE")
        if key in owner:
            raise DataError(
                f"classes {owner[key]!r} and {own!r} are both named {name!r}; tell them apart with sequence.names=FILE"
            )
        owner[key] = own
    return [name.strip() for name in names]


def _read(file: str, classes: Sequence[str]) -> list[str]:
    text = read_text(Path(file), "sequence.names")
    if Path(file).suffix.lower() != ".json":
        lines = text.splitlines()
        if len(lines) != len(classes):
            raise DataError(f"sequence.names={file} has {len(lines)} lines, but there are {len(classes)} classes")
        return lines
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"sequence.names={file} is no JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise DataError(f"sequence.names={file} must be one JSON object that gives every class a name")
    if unnamed := [name for name in classes if name not in content]:
        raise DataError(f"sequence.names={file} has no name for class {unnamed[0]!r}")
    if unknown := sorted(set(content) - set(classes)):
        raise DataError(f"sequence.names={file} names {unknown[0]!r}, but there is no such class")
    return [content[name] for name in classes]


def leave_out(exclude: Sequence[str], classes: Sequence[str], place: str) -> None:
    """Checks classes that are to be left out.

    Raises:
        ConfigError: one is not there.
    """
    for name in exclude:
        if name not in classes:
            near = get_close_matches(name, classes, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"sequence.exclude: {name!r} is no class of {place}{hint}")


def divide(images: FileImages, share: float, seed: int) -> tuple[FileImages, FileImages]:
    """Training and test pictures of one set: `share` of every class, drawn with `seed`, is for testing.

    Raises:
        DataError: a class with a single picture.
    """
    for label, count in enumerate(np.bincount(images.labels)):
        if count == 1:
            alone = images.paths[np.flatnonzero(images.labels == label)[0]]
            raise DataError(
                f"{alone} is the only {images.form.title} of its class; one for training and one for testing are needed"
            )
    chosen = choose_test(images.labels, share, seed)
    log.info(
        "testing on %d of %d %ss (sequence.test_share=%s, sequence.test_seed=%d)",
        len(chosen), len(images), images.form.title, share, seed,
    )  # fmt: skip
    return images.subset(np.setdiff1d(np.arange(len(images)), chosen)), images.subset(chosen)


def warn_of_twins(train: FileImages, test: FileImages) -> None:
    """Warns of pictures that are equal byte for byte; reads the ends of most files only.

    Raises:
        DataError: a file cannot be read.
    """
    for text in shared({"training": train, "test": test}):
        log.warning("%s", text)


def readable(
    paths: Sequence[Path], form: Form, broken: Broken, setting: str = "sequence.broken=leave_out"
) -> list[int]:
    """Positions of the files that are not damaged; names the first `NAMED` others.

    Args:
        paths: of the files, maybe several times.
        form: of them.
        broken: `refuse` them where others are there, or `leave_out` these.
        setting: that leaves them out.

    Raises:
        DataError: they are refused.
    """
    found = damages(list(dict.fromkeys(paths)), form)
    if found:
        counted = f"{len(found):,} damaged {form.title}{'s' if len(found) > 1 else ''}"
        first, *others = found.values()
        if broken == "leave_out":
            log.warning("left out %s: %s", counted, first)
        for text in others[: NAMED - 1]:
            log.warning("%s", text)
        if broken == "refuse":
            more = f" (in all {counted})" if others else ""
            raise DataError(f"{first}{more}; mend or remove such files, or leave them out with {setting}")
    return [position for position, path in enumerate(paths) if path not in found]
