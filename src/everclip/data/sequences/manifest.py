"""The user's own pictures in a list: a CSV file with the columns `path,label[,split][,session][,domain]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from everclip.data.captions.pair_list import Broken
from everclip.data.datasets.base import LabelledImages
from everclip.data.files import Table
from everclip.data.images import PICTURES, FileImages, Form
from everclip.data.sequences import class_incremental, domain_incremental
from everclip.data.sequences.class_incremental import Protocol
from everclip.data.sequences.folder import Share
from everclip.data.sequences.multi_domain import Candidates
from everclip.data.sequences.orders import ClassOrder, by_name
from everclip.data.sequences.own_pictures import (
    divide,
    leave_out,
    listed,
    read_names,
    read_text,
    readable,
    warn_of_twins,
)
from everclip.errors import ConfigError, DataError
from everclip.types import Positive, TaskSequence, Templates

COLUMNS = ("path", "label", "split", "session", "domain")


@dataclass(frozen=True)
class Row:
    """A line of the list; `split`, `session` and `domain` are empty where the column is missing."""

    line: int
    path: Path
    label: str
    split: str
    session: str
    domain: str


def manifest(
    *,
    file: str,
    root: str | None = None,
    base_classes: Positive | None = None,
    way: Positive | None = None,
    shots: Positive | None = None,
    base_shots: Positive | None = None,
    class_order: ClassOrder = "identity",
    names: str | None = None,
    templates: Templates = ("a photo of a {}.",),
    test_share: Share = 0.3,
    test_seed: int = 0,
    seed: int = 0,
    name: str | None = None,
    exclude: Sequence[str] = (),
    broken: Broken = "refuse",
    domains: Sequence[str] | None = None,
    candidates: Candidates = "union",
    clips: Form | None = None,
) -> TaskSequence:
    """A class-incremental sequence of listed pictures, or with a column `domain` a domain-incremental one.

    Args:
        file: the list. `label` is the class; `split` is train or test; `session` is a number from 0 on, the same in all
            lines of a class that give one; `domain` names the session instead, whose classes may come again.
        root: folder that the paths start from and that holds all pictures; None: the list's own.
        base_classes: classes of session 0, in sorted order; None: all, or as the column `session` says.
        way: new classes per later session, None for all that are left, or as the column `session` says.
        shots: training pictures per class from session 1 on, None for all.
        base_shots: training pictures per base class, None for all.
        class_order: see `orders.resolve`; a list holds labels or names of classes, also where these are numbers.
        names: file with the names of the classes, see `read_names`; None: the labels.
        templates: of the prompts.
        test_share: part of every class that is for testing where there is no column `split`.
        test_seed: of the choice of these.
        seed: of the choice of shots.
        name: of the sequence; None: after `file`.
        exclude: labels to leave out.
        broken: what is done where files are damaged, see `readable`.
        domains: in order of their sessions; None: as the list first names them.
        candidates: what a test picture is compared with, see `domain_incremental.build`.
        clips: how files, or folders of frames, become clips; None: they are pictures.

    Raises:
        MissingError: no such list.
        DataError: a list of another form, damaged files, a picture that is not there or listed twice, a class without
            training or test pictures, fewer pictures than shots.
        ConfigError: sessions given both by the list and by settings, a label or domain that is not there.
    """
    path = Path(file).expanduser()
    top = path.parent if root is None else Path(root).expanduser()
    rows = _read(path, top, clips or PICTURES)
    leave_out(exclude, sorted({row.label for row in rows}), str(path))
    rows = [row for row in rows if row.label not in exclude]
    if not rows:
        raise ConfigError(f"sequence.exclude leaves no picture of {path}")
    by_domain = _by_domain(path, rows, domains, candidates)
    rows = [row for own in by_domain.values() for row in own] or rows
    whole = [rows[index] for index in readable([row.path for row in rows], clips or PICTURES, broken)]
    for column in ("label", "domain"):
        if lost := {getattr(row, column) for row in rows} - {getattr(row, column) for row in whole}:
            raise DataError(f"{path}: {column} {min(lost)!r} has damaged files alone")
    rows, by_domain = whole, {domain: [row for row in whole if row.domain == domain] for domain in by_domain}
    classes = sorted({row.label for row in rows}, key=lambda label: (int(label) if label.isdecimal() else -1, label))
    images = FileImages(
        [row.path for row in rows],
        np.array([classes.index(row.label) for row in rows], dtype=np.int64),
        top,
        form=clips or PICTURES,
    )
    shown = read_names(names, classes)
    called = name or f"manifest_{path.stem}"
    if by_domain:
        if (base_classes, way, base_shots, class_order) != (None, None, None, "identity"):
            raise ConfigError(
                f"sequence.base_classes, way, base_shots, class_order: {path} has a column domain instead"
            )
        drawn, start = [], 0
        for domain, own in by_domain.items():
            train, test = _parts(images.subset(range(start, start + len(own))), own, test_share, test_seed)
            warn_of_twins(train, test)
            drawn.append(LabelledImages(domain, tuple(shown), tuple(templates), train.trained, test))
            start += len(own)
        return domain_incremental.build(called, drawn, shots=shots, candidates=candidates, seed=seed)
    train, test = _parts(images, rows, test_share, test_seed)
    for part, title in ((train, "training"), (test, "test")):
        for absent in sorted(set(range(len(classes))) - set(part.labels.tolist())):
            raise DataError(f"{path}: class {classes[absent]!r} has no {title} picture")
    warn_of_twins(train, test)
    order = by_name(class_order, classes, shown)
    protocol = Protocol(base_classes, way, shots, base_shots, class_order=order, seed=seed)
    if groups := _sessions(path, rows, classes):
        if (base_classes, way, class_order) != (None, None, "identity"):
            raise ConfigError(f"sequence.base_classes, way, class_order: the column session of {path} says it already")
        protocol = replace(protocol, class_order="listed", groups=groups)
    return class_incremental.build(called, protocol, train.trained, test, shown, templates)


def _read(path: Path, top: Path, form: Form) -> list[Row]:
    """The lines of a list, checked one by one."""
    lines = Table(path, read_text(path, "sequence.file"))
    header = lines.columns
    if not set(header) >= {"path", "label"} or not set(header) <= set(COLUMNS) or len(set(header)) < len(header):
        raise DataError(
            f"{path}: the first line is {','.join(header)!r}, but must be path,label[,split][,session][,domain]"
        )
    rows: list[Row] = []
    seen: dict[Path, int] = {}
    for number, cells in lines:
        place = f"{path}, line {number}"
        values = {"split": "", "session": "", "domain": "", **cells}
        picture = listed(top, values["path"], place, folders=form.num_frames is not None)
        row = Row(number, picture, *(values[key] for key in ("label", "split", "session", "domain")))
        if not row.label:
            raise DataError(f"{place}: no label")
        if "split" in header and row.split not in ("train", "test"):
            raise DataError(f"{place}: split {row.split!r} must be train or test")
        if "domain" in header and (not row.domain or row.session):
            raise DataError(f"{place}: a domain for every picture, and no session beside it")
        if row.session and not row.session.isdecimal():
            raise DataError(f"{place}: session {row.session!r} must be a number from 0 on")
        if row.path in seen:
            raise DataError(f"{place}: {row.path} is in line {seen[row.path]} already")
        seen[row.path] = row.line
        rows.append(row)
    if not rows:
        raise DataError(f"{path} lists no pictures")
    return rows


def _by_domain(
    path: Path, rows: Sequence[Row], order: Sequence[str] | None, candidates: Candidates
) -> dict[str, list[Row]]:
    """The lines of each domain, in order of their sessions; empty without a column of domains."""
    if not rows[0].domain:
        if (order, candidates) != (None, "union"):
            raise ConfigError(f"sequence.domains, candidates: {path} has no column domain")
        return {}
    there = dict.fromkeys(row.domain for row in rows)
    chosen = list(there) if order is None else list(order)
    if unknown := sorted(set(chosen) - set(there)):
        raise ConfigError(f"sequence.domains: {unknown[0]!r} is no domain of {path}; it has {', '.join(there)}")
    if len(set(chosen)) < len(chosen) or not chosen:
        raise ConfigError(f"sequence.domains={chosen}: must be one or more, each once")
    return {domain: [row for row in rows if row.domain == domain] for domain in chosen}


def _parts(images: FileImages, rows: Sequence[Row], test_share: float, test_seed: int) -> tuple[FileImages, FileImages]:
    """Training and test pictures as the list says, or else a part of each class."""
    if not rows[0].split:
        return divide(images, test_share, test_seed)
    is_test = np.array([row.split == "test" for row in rows])
    return images.subset(np.flatnonzero(~is_test)), images.subset(np.flatnonzero(is_test))


def _sessions(path: Path, rows: Sequence[Row], classes: Sequence[str]) -> list[list[int]]:
    """The classes of each session as the list says; none if it has no sessions."""
    chosen: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row.session:
            session, line = chosen.setdefault(row.label, (int(row.session), row.line))
            if session != int(row.session):
                raise DataError(
                    f"{path}, line {row.line}: class {row.label!r} is in session {row.session}, in line {line} in "
                    f"session {session}"
                )
    if not chosen:
        return []
    if homeless := [name for name in classes if name not in chosen]:
        raise DataError(f"{path}: no line says the session of class {homeless[0]!r}")
    numbers = sorted({session for session, _ in chosen.values()})
    if numbers != list(range(len(numbers))):
        raise DataError(f"{path}: the sessions are {numbers}, but must be 0, 1, 2, ...")
    return [[i for i, name in enumerate(classes) if chosen[name][0] == number] for number in numbers]
