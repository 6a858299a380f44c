"""Comparing a data set on the disk with what its publisher says of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.spec import DataSpec, Part, Split
from everclip.data.downloads import file_md5
from everclip.data.images import FileImages, read_image
from everclip.errors import DataError, MissingError
from everclip.types import Samples

AT_ONCE = 256
Watch = Callable[[range], Iterable[int]]


def problems_of(spec: DataSpec, root: Path, splits: Iterable[str], watch: Watch | None) -> Iterator[str]:
    """What is not as published, one text each.

    Args:
        spec: of the data set.
        root: of the data.
        splits: those to check; their files are there.
        watch: passes batches of pictures through, showing progress, to open every picture; None to open none.
    """
    for name, published in (spec.md5 or {}).items():
        path = spec.folder(root) / name
        if path.exists() and (found := file_md5(path)) != published:
            yield f"{path} has MD5 {found}, published is {published}"
    paths: dict[Path, None] = {}
    for name in splits:
        try:
            data = import_module(f"everclip.data.datasets.{spec.key}").load(root=str(root), split=name)
        except (DataError, MissingError) as error:
            yield f"split {name}: {error}"
            continue
        yield from (f"split {name}: {problem}" for problem in _counts(data, spec.splits[name]))
        for part in (data.train, data.val, data.test):
            if isinstance(part, FileImages):
                paths |= dict.fromkeys(part.paths)
    if watch is not None:
        yield from _unreadable(list(paths), watch)


def _counts(data: LabelledImages, published: Split) -> Iterator[str]:
    if len(data.names) != published.classes:
        yield f"{len(data.names)} classes, published are {published.classes}"
    parts: dict[Part, Samples | None] = {"train": data.train, "val": data.val, "test": data.test}
    for part, images in parts.items():
        count = 0 if images is None else len(images)
        if part in published.counts and count != published.counts[part]:
            yield f"{count:,} {part} pictures, published are {published.counts[part]:,}"
        if images is None or part not in published.per_class:
            continue
        low, high = published.per_class[part]
        per_class = np.bincount(images.labels, minlength=len(data.names))
        for label in np.flatnonzero((per_class < low) | (per_class > high)):
            range_ = f"{low}" if low == high else f"{low} to {high}"
            yield f"{per_class[label]} {part} pictures of {data.names[label]!r} (class {label}), published are {range_}"


def _unreadable(paths: list[Path], watch: Watch) -> Iterator[str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in watch(range(0, len(paths), AT_ONCE)):
            yield from filter(None, pool.map(_problem, paths[start : start + AT_ONCE]))


def _problem(path: Path) -> str:
    try:
        read_image(path)
    except DataError as error:
        return str(error)
    return ""
