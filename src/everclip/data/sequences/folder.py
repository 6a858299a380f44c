"""The user's own pictures in class folders: `root/<class>/*`, or `root/train/<class>/*` and `root/test/<class>/*`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from everclip.data.captions.pair_list import Broken
from everclip.data.images import PICTURES, FileImages, Form
from everclip.data.sequences import class_incremental
from everclip.data.sequences.class_incremental import Protocol
from everclip.data.sequences.orders import ClassOrder, by_name
from everclip.data.sequences.own_pictures import divide, leave_out, read_names, readable, warn_of_twins
from everclip.errors import DataError, MissingError
from everclip.types import Positive, TaskSequence, Templates

log = logging.getLogger("everclip")

Share = Annotated[float, Field(gt=0, lt=1)]


def folder(
    *,
    root: str,
    base_classes: Positive | None = None,
    way: Positive | None = 5,
    shots: Positive | None = None,
    base_shots: Positive | None = None,
    max_classes: Positive | None = None,
    class_order: ClassOrder = "identity",
    names: str | None = None,
    templates: Templates = ("a photo of a {}.",),
    test_share: Share = 0.3,
    test_seed: int = 0,
    seed: int = 0,
    name: str | None = None,
    exclude: Sequence[str] = (),
    broken: Broken = "refuse",
    clips: Form | None = None,
) -> TaskSequence:
    """A class-incremental sequence of class folders.

    Args:
        root: holds one folder per class, or `train/` and `test/` which do.
        base_classes: classes of session 0, in the order of sorted folder names; None: all.
        way: new classes per later session, None for all that are left.
        shots: training pictures per class from session 1 on, None for all.
        base_shots: training pictures per base class, None for all.
        max_classes: use only the first classes, None for all.
        class_order: see `orders.resolve`; a list holds folders or names of classes, also where these are numbers.
        names: file with the names of the classes, see `read_names`; None: the folders' names.
        templates: of the prompts.
        test_share: part of every class that is for testing where there are no folders `train/` and `test/`.
        test_seed: of the choice of these.
        seed: of the choice of shots.
        name: of the sequence; None: after `root`.
        exclude: class folders to leave out.
        broken: what is done where files are damaged, see `readable`.
        clips: how files, or folders of frames, become clips; None: they are pictures.

    Raises:
        MissingError: `root` is not there or not laid out like this.
        ConfigError: a class folder to leave out that is not there.
        DataError: an empty class folder, damaged files, a class without test pictures, fewer pictures than shots,
            names that do not fit, a folder that cannot be read.
    """
    top = Path(root).expanduser()
    try:
        leave_out(exclude, class_folders(top), str(top))
        train, test, classes = read_folders(top, test_share, test_seed, exclude, broken, clips or PICTURES)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    shown = read_names(names, classes)
    warn_of_twins(train, test)
    order = by_name(class_order, classes, shown)
    protocol = Protocol(base_classes, way, shots, base_shots, max_classes, order, seed)
    called = name or f"folder_{top.resolve().name}"
    return class_incremental.build(called, protocol, train.trained, test, shown, templates)


def read_folders(
    top: Path, test_share: float, test_seed: int, exclude: Sequence[str], broken: Broken, form: Form = PICTURES
) -> tuple[FileImages, FileImages, list[str]]:
    """Training pictures, test pictures and class folders, see `folder`; what is not there need not be excluded."""
    parts = [top / split for split in ("train", "test")]
    if not _divided(top):
        classes = _classes(top, exclude)
        (images,) = _readable([_images(top, classes, top, exclude, form)], broken)
        return *divide(images, test_share, test_seed), classes
    for part in parts:
        if not part.is_dir():
            raise MissingError(f"sequence.root={top}: no folder {part}; expected train/<class>/* and test/<class>/*")
    if unused := [name for name in folders(top) if top / name not in parts and folders(top / name)]:
        log.warning(
            "%s: train and test are used, but not %s (sequence=manifest chooses freely)", top, ", ".join(unused)
        )
    classes = _classes(parts[0], exclude)
    if alone := sorted(set(folders(parts[1])) - {*classes, *exclude}):
        raise DataError(f"{parts[1] / alone[0]} has no training folder {parts[0] / alone[0]}")
    train, test = _readable([_images(part, classes, top, exclude, form) for part in parts], broken)
    return train, test, classes


def class_folders(top: Path) -> list[str]:
    """The class folders of a root that is laid out as `folder` wants it.

    Raises:
        MissingError: no such folder.
    """
    if not top.is_dir():
        raise MissingError(f"sequence.root={top}: no such folder")
    return folders(top / "train" if _divided(top) and (top / "train").is_dir() else top)


def _divided(top: Path) -> bool:
    """Whether there are class folders in `train/` or `test/`."""
    return any(folders(top / split) for split in ("train", "test") if (top / split).is_dir())


def folders(path: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(path: Path, exclude: Sequence[str]) -> list[str]:
    classes = [name for name in folders(path) if name not in exclude]
    if not classes:
        raise MissingError(f"sequence.root: {path} holds no class folders")
    return classes


def _images(path: Path, classes: Sequence[str], root: Path, exclude: Sequence[str], form: Form) -> FileImages:
    """Every sample of the class folders under `path`, in sorted order; warns of what is left out."""
    files: list[Path] = []
    labels: list[int] = []
    left_out = [entry for entry in sorted(path.iterdir()) if entry.name not in (*classes, *exclude)]
    for label, name in enumerate(classes):
        before = len(files)
        for entry in sorted((path / name).iterdir()) if (path / name).is_dir() else ():
            (files if form.accepts(entry) else left_out).append(entry)
        if len(files) == before:
            raise DataError(f"{path / name} holds no {form.title}s ({', '.join(form.suffixes)})")
        labels += [label] * (len(files) - before)
    if visible := [entry for entry in left_out if not entry.name.startswith(".")]:
        log.warning("%s: %d entries are no %ss and left out, one is %s", path, len(visible), form.title, visible[0])
    return FileImages(files, np.array(labels, dtype=np.int64), root, form=form)


def _readable(parts: Sequence[FileImages], broken: Broken) -> list[FileImages]:
    """Parts without damaged files, see `readable`; each keeps some of every class."""
    paths = [path for part in parts for path in part.paths]
    kept, start, whole = np.array(readable(paths, parts[0].form, broken), dtype=np.int64), 0, []
    for part in parts:
        whole.append(part.subset(kept[(kept >= start) & (kept < start + len(part))] - start))
        start += len(part)
        if lost := sorted(set(part.labels.tolist()) - set(whole[-1].labels.tolist())):
            first = part.paths[part.labels.tolist().index(lost[0])]
            raise DataError(f"{first.parent} holds no {part.form.title} that is not damaged")
    return whole
