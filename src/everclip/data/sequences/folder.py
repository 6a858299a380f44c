"""The user's own pictures: `root/train/<class>/*` and `root/test/<class>/*`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from everclip.data.images import FileImages
from everclip.data.sequences import class_incremental
from everclip.data.sequences.class_incremental import Protocol
from everclip.errors import DataError, MissingError
from everclip.types import Positive, TaskSequence, Template

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")


def folder(
    *,
    root: str,
    base_classes: Positive,
    way: Positive = 5,
    shots: Positive | None = None,
    base_shots: Positive | None = None,
    max_classes: Positive | None = None,
    class_order: str = "identity",
    templates: Sequence[Template] = ("a photo of a {}.",),
    seed: int = 0,
) -> TaskSequence:
    """A class-incremental sequence of class folders.

    Args:
        root: holds `train/` and `test/`, each with one folder per class; a folder's name, with spaces for underscores
            and hyphens, is the class name.
        base_classes: classes of session 0, in the order of sorted folder names.
        way: new classes per later session.
        shots: training pictures per class from session 1 on, None for all.
        base_shots: training pictures per base class, None for all.
        max_classes: use only the first classes, None for all.
        class_order: see `Protocol`.
        templates: of the prompts.
        seed: of the choice of shots.

    Raises:
        MissingError: `root` is not there or not laid out like this.
        DataError: an empty class folder, a class without test pictures, fewer pictures than shots.
    """
    protocol = Protocol(base_classes, way, shots, base_shots, max_classes, class_order, seed)
    top = Path(root).expanduser()
    folders = {split: top / split for split in ("train", "test")}
    for path in folders.values():
        if not path.is_dir():
            raise MissingError(f"sequence.root={root}: no folder {path}; expected train/<class>/* and test/<class>/*")
    classes = sorted(entry.name for entry in folders["train"].iterdir() if entry.is_dir())
    if not classes:
        raise MissingError(f"sequence.root={root}: {folders['train']} holds no class folders")
    alone = sorted({entry.name for entry in folders["test"].iterdir() if entry.is_dir()} - set(classes))
    if alone:
        raise DataError(f"{folders['test'] / alone[0]} has no training folder {folders['train'] / alone[0]}")
    train, test = (_read(path, classes, top) for path in folders.values())
    names = [name.replace("_", " ").replace("-", " ") for name in classes]
    return class_incremental.build(f"folder_{top.resolve().name}", protocol, train, test, names, templates)


def _read(path: Path, classes: Sequence[str], root: Path) -> FileImages:
    """Every picture of the class folders under `path`, in sorted order."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        members = sorted(p for p in (path / name).glob("*") if p.suffix.lower() in SUFFIXES)
        if not members:
            raise DataError(f"{path / name} holds no pictures ({', '.join(SUFFIXES)})")
        files += members
        labels += [label] * len(members)
    return FileImages(files, np.array(labels, dtype=np.int64), root)
