"""Domains in folders, each with the same class folders: PACS, Office-Home, DomainNet, or pictures of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from everclip.data.captions.pair_list import Broken
from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import Item, listed, read_items
from everclip.data.images import FileImages
from everclip.data.sequences import domain_incremental
from everclip.data.sequences.folder import Share, class_folders, folders, read_folders
from everclip.data.sequences.multi_domain import Candidates
from everclip.data.sequences.own_pictures import leave_out, read_names, warn_of_twins
from everclip.errors import ConfigError, DataError, MissingError
from everclip.types import Positive, TaskSequence, Templates

Domain = tuple[FileImages, FileImages, list[str]]


def domain_folders(
    *,
    root: str,
    domains: Sequence[str] | None = None,
    lists: str | None = None,
    shots: Positive | None = None,
    candidates: Candidates = "union",
    exclude: Sequence[str] = (),
    broken: Broken = "refuse",
    names: str | None = None,
    templates: Templates = ("a photo of a {}.",),
    test_share: Share = 0.3,
    test_seed: int = 0,
    seed: int = 0,
    name: str | None = None,
) -> TaskSequence:
    """A domain-incremental sequence of folders.

    Args:
        root: holds a folder per domain, laid out as `folder` wants its root; a domain may lack some classes.
        domains: folders in order of their sessions; None: all, sorted.
        lists: files below `root` that divide the pictures, with `{domain}` and `{split}` (train, test) in their name; a
            line is a path from `root`, whose last folder is the class, and the number of the class. None: the folders
            `train/` and `test/` of a domain, or a part of each class, divide them.
        shots: training pictures per class and domain, None for all.
        candidates: see `domain_incremental.build`.
        exclude: class folders to leave out.
        broken: what is done where files are damaged, see `readable`; those of `lists` are not looked at.
        names: file with the names of the classes, see `read_names`; None: the folders' names.
        templates: of the prompts.
        test_share: part of every class for testing where nothing else divides a domain.
        test_seed: of the choice of these.
        seed: of the choice of shots.
        name: of the sequence; None: after `root`.

    Raises:
        MissingError: a folder, list or picture is not there.
        ConfigError: no such class to leave out.
        DataError: pictures or lists that cannot be used, see `folder`.
    """
    top = Path(root).expanduser()
    if not top.is_dir():
        raise MissingError(f"sequence.root={top}: no such folder")
    if lists is not None and exclude:
        raise ConfigError("sequence.exclude leaves folders out, but sequence.lists names the pictures")
    try:
        found = folders(top)
        chosen = found if domains is None else list(domains)
        if absent := [domain for domain in chosen if domain not in found]:
            raise MissingError(f"sequence.domains: {top} has no folder {absent[0]!r}; it has {', '.join(found[:10])}")
        if lists is None:
            leave_out(exclude, sorted({own for domain in chosen for own in class_folders(top / domain)}), str(top))
            read = [(domain, *read_folders(top / domain, test_share, test_seed, exclude, broken)) for domain in chosen]
        else:
            read = [(domain, *_listed(top, domain, lists)) for domain in chosen]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    classes = sorted({own for *_, of_domain in read for own in of_domain})
    shown = tuple(read_names(names, classes))
    drawn = []
    for domain, *parts, own in read:
        numbers = np.array([classes.index(class_name) for class_name in own], dtype=np.int64)
        train, test = (FileImages(part.paths, numbers[part.labels], top) for part in parts)
        if lists is None:  # published pictures are what `everclip-data verify` is for
            warn_of_twins(train, test)
        drawn.append(LabelledImages(domain, shown, tuple(templates), train, test))
    title = name or f"dil_{top.resolve().name}"
    return domain_incremental.build(title, drawn, shots=shots, candidates=candidates, seed=seed)


def _listed(top: Path, domain: str, lists: str) -> Domain:
    """A domain as its lists divide it; classes by their number, with the names of their folders."""
    names: dict[int, str] = {}

    def parse(line: str) -> Item:
        path, number = line.rsplit(maxsplit=1)
        picture = top / path
        outside = Path(path).is_absolute() or ".." in Path(path).parts
        if outside or names.setdefault(int(number), picture.parent.name) != picture.parent.name:
            raise ValueError(path)
        return picture, int(number)

    try:
        files = [top / lists.format(domain=domain, split=split) for split in ("train", "test")]
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"sequence.lists={lists}: must be a name with {{domain}} and {{split}} in it") from error
    if absent := [file for file in files if not file.is_file()]:
        raise MissingError(f"sequence.lists: {absent[0]} is not there")
    items = [read_items(file, parse) for file in files]
    if len(set(names.values())) < len(names):
        raise DataError(f"{files[0]}: a class folder has two numbers")
    order = sorted(names)
    place = {number: position for position, number in enumerate(order)}
    train, test = (
        listed([(path, place[number]) for path, number in part], len(order), top, domain, file)
        for part, file in zip(items, files, strict=True)
    )
    return train, test, [names[number] for number in order]
