"""Comparing a data set on the disk with what its publisher says of it; what is wrong with one's own pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from everclip.data.captions import own
from everclip.data.captions.pair_list import PARTS, sorted_out
from everclip.data.captions.samples import CaptionedData
from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.spec import DataSpec, Part, Split
from everclip.data.grounded import GroundedData
from everclip.data.images import PICTURES, FileImages, Form
from everclip.data.pictures import damages, shared
from everclip.data.video.form import SUFFIXES
from everclip.data.video.form import USUAL as CLIPS
from everclip.errors import DataError, MissingError
from everclip.types import Samples

AT_ONCE = 256
Watch = Callable[[range], Iterable[int]]


@dataclass
class Findings:
    """What a comparison found, one text each.

    Attributes:
        problems: what is not as published, or cannot be read.
        notes: pictures that are equal, as those of some publishers are.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(spec: DataSpec, root: Path, splits: Iterable[str], watch: Watch, deep: bool) -> Findings:
    """Compares what is there with what is published.

    Args:
        spec: of the data set.
        root: of the data.
        splits: those to check; their files are there.
        watch: passes batches of pictures through, showing progress.
        deep: opens every picture, not only those that do not begin and end as they must.
    """
    found = Findings(problems=spec.differing(root))
    paths: dict[Path, Form] = {}
    for name in splits:
        try:
            data = spec.load(root, name)
            found.problems += [f"split {name}: {problem}" for problem in _counts(data, spec.splits[name])]
            parts = {"training": data.train, "validation": data.val, "test": data.test}
            pictures = {part: images.pictures for part, images in parts.items() if images is not None}
            files = {part: images for part, images in pictures.items() if isinstance(images, FileImages)}
            paths |= {path: images.form for images in files.values() for path in images.paths}
            notes = data.notes if isinstance(data, CaptionedData) else ()
            found.notes += [f"split {name}: {text}" for text in (*notes, *shared(files))]
        except (DataError, MissingError) as error:
            found.problems.append(f"split {name}: {error}")
    found.problems += _damaged(paths, watch, deep)
    return found


def compare_own(place: Path, watch: Watch, deep: bool) -> Findings:
    """Looks for what is wrong with one's own image-text pairs: those that a run would refuse, and damaged pictures.

    Args:
        place: a list, a folder with one, or a folder of such folders, as `sequence=retrieval_folder` reads them.
        watch: passes batches of pictures through, showing progress.
        deep: opens every picture, not only those that do not begin and end as they must.

    Raises:
        MissingError: there is no list.
        DataError: a list cannot be read.
    """
    found, paths = Findings(), dict[Path, Form]()
    for pairs in own.lists(place).values():
        kept, faults, _ = sorted_out(pairs)
        found.problems += faults.texts
        parts = {part: pairs.pictures([e.picture for e in kept if e.split == part]) for part in ("", *PARTS)}
        files = {part or "the": them for part, them in parts.items() if isinstance(them, FileImages)}
        paths |= {path: _form(path) for images in files.values() for path in images.paths}
        found.notes += shared(files)
        if not kept:
            found.problems.append(f"{pairs.source} lists no image-text pairs")
    found.problems += _damaged(paths, watch, deep)
    return found


def _form(path: Path) -> Form:
    """What a file is by its name: a picture, or else a clip."""
    return CLIPS if path.is_dir() or (path.suffix.lower() in SUFFIXES and not PICTURES.accepts(path)) else PICTURES


def _counts(data: LabelledImages | CaptionedData | GroundedData, published: Split) -> Iterator[str]:
    names = data.names if isinstance(data, LabelledImages) else ()
    if len(names) != published.classes:
        yield f"{len(names)} classes, published are {published.classes}"
    parts: dict[Part, Samples | None] = {"train": data.train, "val": data.val, "test": data.test}
    for part, images in parts.items():
        count = 0 if images is None else len(images)
        if part in published.counts and count != published.counts[part]:
            yield f"{count:,} {part} pictures, published are {published.counts[part]:,}"
        captions = 0 if images is None else sum(map(len, images.texts))
        if part in published.captions and captions != published.captions[part]:
            yield f"{captions:,} {part} captions, published are {published.captions[part]:,}"
        if images is None or part not in published.per_class:
            continue
        low, high = published.per_class[part]
        per_class = np.bincount(images.labels, minlength=len(names))
        for label in np.flatnonzero((per_class < low) | (per_class > high)):
            range_ = f"{low}" if low == high else f"{low} to {high}"
            yield f"{per_class[label]} {part} pictures of {names[label]!r} (class {label}), published are {range_}"


def _damaged(files: Mapping[Path, Form], watch: Watch, deep: bool) -> Iterator[str]:
    for form in dict.fromkeys(files.values()):
        paths = [path for path, own in files.items() if own == form]
        for start in watch(range(0, len(paths), AT_ONCE)):
            yield from damages(paths[start : start + AT_ONCE], form, deep).values()
