"""Lists of clips that are not of a data set's publisher: vCLIMB's sessions, ViFi-CLIP's base and novel classes.

Source: ojedaf/vCLIMB_Benchmark @ 05c14f4 (`data/*.pkl`); muzairkhattak/ViFi-CLIP @ e2d1948 (`datasets_splits`,
`labels`).
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, listed, read_items
from everclip.data.datasets.spec import DataSpec
from everclip.data.datasets.ucf_layout import spoken
from everclip.data.files import Table, read_bytes
from everclip.data.images import PICTURES, Form
from everclip.errors import DataError, MissingError


class _Plain(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts, which need no code; refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "defaultdict"):
            return lambda *_: {}  # whatever it would fill gaps with
        if (module, name) in {("builtins", "list"), ("__builtin__", "list")}:
            return list
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle of numbers, texts, lists and dicts.

    Raises:
        DataError: it is none, or would run code.
    """
    try:
        return _Plain(io.BytesIO(read_bytes(path))).load()
    except Exception as error:
        raise DataError(f"{path} cannot be read as lists of clips: {error}") from error


def vclimb(known: DataSpec, folder: Path, split: str, form: Form) -> LabelledImages:
    """A data set as a pickle of vCLIMB divides it, with its classes in the order of the sessions.

    Args:
        known: of the data set, whose split names the pickle.
        folder: of the data set.
        split: name of the split.
        form: how files become clips.

    Raises:
        MissingError: a clip is not there.
        DataError: the pickle has another form.
    """
    source = folder / known.splits[split].files[0]
    content = read_plain_pickle(source)
    place = ClipFiles(folder, form)
    parts: dict[str, list[Item]] = {}
    try:
        labels = {name: label for label, name in enumerate(name for task in content["train"] for name in task)}
        for part in ("train", "val", "test"):
            tasks = content[part]
            parts[part] = [
                (place.of(str(clip), known.title, source), labels[name])
                for task in tasks for name, own in task.items() for clip in own
            ]  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{source} is no list of vCLIMB: expected clips by class in every session ({error!r})"
        ) from error
    train, val, test = (listed(parts[part], len(labels), folder, known.title, source, form) for part in parts)
    names = tuple(map(spoken, labels))
    return LabelledImages(known.key, names, known.splits[split].templates, train.trained, test, val=val.trained)


def vifi(known: DataSpec, folder: Path, split: str, form: Form) -> LabelledImages:
    """A data set's base and novel classes as ViFi-CLIP lists them: the first half is base, with 16 clips per class.

    Arguments and errors as in `vclimb`; the split's files are the lists of training, base and novel clips and the names
    of base and novel classes.
    """
    train_list, base_list, novel_list, *tables = (folder / file for file in known.splits[split].files)
    base, novel = (_names(path) for path in tables)
    place = ClipFiles(folder, form)

    def items(source: Path, first: int) -> list[Item]:
        def parse(line: str) -> Item:
            file, _, label = line.rpartition(" ")
            return place.of(Path(file).stem, known.title, source), first + int(label)

        return read_items(source, parse)

    count = len(base) + len(novel)
    train = listed(items(train_list, 0), count, folder, known.title, train_list, form)
    tested = items(base_list, 0) + items(novel_list, len(base))
    test = listed(tested, count, folder, known.title, novel_list, form)
    return LabelledImages(known.key, (*base, *novel), known.splits[split].templates, train.trained, test)


class ClipFiles:
    """Clips, files or folders of frames, anywhere below a folder, by their names without ending.

    Args:
        folder: of the data set.
        form: which says what is a clip.
    """

    def __init__(self, folder: Path, form: Form) -> None:
        self._folder = folder
        frames, clips = dict[str, Path](), dict[str, Path]()
        for top, _, names in os.walk(folder):
            files = [Path(top, name) for name in names]
            if any(map(PICTURES.accepts, files)) and form.accepts(Path(top)):
                frames[Path(top).name] = Path(top)
            clips |= {file.stem: file for file in files if file.suffix.lower() in form.suffixes}
        self._paths = frames | clips

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def of(self, name: str, title: str, source: Path) -> Path:
        """The clip of a name.

        Raises:
            MissingError: it is not there.
        """
        if name not in self._paths:
            raise MissingError(f"{title}: clip {name} is not below {self._folder}, but {source.name} names it")
        return self._paths[name]


def _names(path: Path) -> list[str]:
    """The names of classes in a table `id,name`, as they are."""
    table = Table(path, read_bytes(path).decode("utf-8-sig", "replace"))
    if table.columns != ["id", "name"]:
        raise DataError(f"{path}: the first line is {','.join(table.columns)!r}, but must be id,name")
    return [cells["name"] for _, cells in table]
