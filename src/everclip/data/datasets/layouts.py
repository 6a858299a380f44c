"""The layouts that several publishers share: lists of pictures, trees of class folders, CoOp's split files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everclip.data.datasets import matlab
from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.spec import DataSpec
from everclip.data.files import read_bytes
from everclip.data.images import PICTURES, FileImages, Form
from everclip.errors import DataError, MissingError
from everclip.types import Indices

ENDINGS = (".jpg", ".jpeg", ".png")
Item = tuple[Path, int]


def check_labels(labels: Indices, classes: int, source: Path) -> None:
    """Labels must be numbers of classes.

    Raises:
        DataError: names the file and the first that is not.
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(f"{source} has the label {wrong[0]}, but there are {classes} classes, numbered from 0")


def listed(
    items: Sequence[Item], classes: int, folder: Path, title: str, source: Path, form: Form = PICTURES
) -> FileImages:
    """Listed pictures, or clips, with their labels.

    Args:
        items: path and label of each.
        classes: how many there are.
        folder: of the data set.
        title: of the data set.
        source: the list that names them, for the message.
        form: what is made of a file.

    Raises:
        MissingError: names the first picture that is not there.
        DataError: a label is out of range.
    """
    labels = np.array([label for _, label in items], dtype=np.int64)
    check_labels(labels, classes, source)
    parents = {path.parent for path, _ in items}
    there = {parent: {p.name for p in parent.iterdir()} if parent.is_dir() else set() for parent in parents}
    for path, _ in items:
        if path.name not in there[path.parent]:
            raise MissingError(
                f"{title}: {path} is not there, but {source.name} names it; is that the list of another data set, or "
                "was the archive not extracted to its end?"
            )
    lists = [source] if source.is_file() else []
    return FileImages([path for path, _ in items], labels, folder, lists, form)


def class_folder(folder: Path, title: str) -> list[Path]:
    """The pictures in one class's folder, sorted by name.

    Raises:
        MissingError: the folder is not there or holds no picture.
    """
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS) if folder.is_dir() else []
    if not found:
        raise MissingError(f"{title}: {folder} holds no pictures; expected a folder of this name for each class")
    return found


def class_folders(folder: Path, classes: Sequence[str], title: str) -> list[Item]:
    """The pictures of a tree with one folder per class, class by class; a label is a position in `classes`."""
    return [(path, label) for label, name in enumerate(classes) for path in class_folder(folder / name, title)]


def coop_split(spec: DataSpec, root: Path, pictures_in: str) -> LabelledImages:
    """A data set as CoOp's `split_zhou_<Name>.json` divides it; the file also names the classes.

    Args:
        spec: of the data set, whose split `coop` names the file.
        root: of the data.
        pictures_in: the folder that the file's paths are relative to.

    Raises:
        MissingError: the file or a picture is not there.
        DataError: the file has another form.
    """
    folder = spec.require(root, "coop")
    path = folder / spec.splits["coop"].files[0]
    content = read_json(path)
    parts: dict[str, list[Item]] = {}
    names: dict[int, str] = {}
    try:
        for part in ("train", "val", "test"):
            parts[part] = [(folder / pictures_in / str(file), int(label)) for file, label, _ in content[part]]
            for _, label, name in content[part]:
                if names.setdefault(int(label), str(name)) != name:
                    raise DataError(f"{path} calls class {label} both {names[int(label)]!r} and {name!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no split file of CoOp: expected train, val and test with [path, label, name] each ({error!r})"
        ) from error
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{path} has the labels {sorted(names)}; they must be 0, 1, 2, ... without a gap")
    train, val, test = (listed(parts[part], len(names), folder, spec.title, path) for part in ("train", "val", "test"))
    ordered = tuple(names[label].replace("_", " ") for label in range(len(names)))
    return LabelledImages(spec.key, ordered, spec.splits["coop"].templates, train, test, val=val)


def mtil_80_20(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """The training and test items of MTIL where a data set has no split of its own.

    Source: Thunderbeee/ZSCL @ b96e714, `split_dataset`: `random_split` with generator seed 42 over the files in
    torchvision's order (for SUN397 that order depends on the file system; here the files are sorted).
    """
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(42)).tolist()
    count = int(0.8 * len(items))
    return [items[i] for i in order[:count]], [items[i] for i in order[count:]]


def mtil_tree(spec: DataSpec, root: Path, tree: str, ignored: Sequence[str] = ()) -> LabelledImages:
    """A tree of class folders as MTIL divides it.

    Args:
        spec: of the data set, whose split `mtil` names the classes in the order of the sorted folders.
        root: of the data.
        tree: the folder of the class folders.
        ignored: folders that are no class.

    Raises:
        MissingError: the tree or a class's pictures are not there.
        DataError: there are more or fewer class folders.
    """
    folder = spec.require(root, "mtil")
    split = spec.splits["mtil"]
    classes = sorted(p.name for p in (folder / tree).iterdir() if p.is_dir() and p.name not in ignored)
    if len(classes) != len(split.names):
        raise DataError(f"{folder / tree} has {len(classes)} class folders; {spec.title} has {len(split.names)}")
    parts = mtil_80_20(class_folders(folder / tree, classes, spec.title))
    train, test = (listed(part, len(classes), folder, spec.title, folder / tree) for part in parts)
    return LabelledImages(spec.key, split.names, split.templates, train, test)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without those that are blank.

    Raises:
        DataError: it is no text.
    """
    try:
        return [line.strip() for line in read_bytes(path).decode("utf-8").splitlines() if line.strip()]
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as a list: {error}") from error


def read_items(path: Path, parse: Callable[[str], Item]) -> list[Item]:
    """The picture and label that each line of a list stands for.

    Raises:
        DataError: names the line of which `parse` makes nothing.
    """
    items = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            items.append(parse(line))
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{path}, line {number}: {line!r} has not the published form") from error
    return items


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def variables(path: Path, *names: str) -> dict[str, Any]:
    """Variables of a MATLAB file, see `matlab.read`.

    Raises:
        DataError: it is no such file or lacks one of them.
    """
    try:
        content = matlab.read(read_bytes(path), names)
        return {name: content[name] for name in names}
    except KeyError as error:
        raise DataError(f"{path} has no variable {error}; is it the list of another data set?") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}") from error
