"""Pictures to be ordered, in tables as published with arXiv 2412.06760.

A table has the columns `filepath`, `title`, `cname`, `value` and, where it wants, `sample_weights_by_class`, separated
by tabs: a picture, the text that pictures of its category are ordered by, the category, and the picture's value there.
A picture may be in several categories. Columns of other names are not read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from everclip.data.captions.pair_list import Broken
from everclip.data.files import Table
from everclip.data.images import PICTURES, FileImages
from everclip.data.ordered import OrderedImages
from everclip.data.sequences.own_pictures import listed, read_text, readable, warn_of_twins
from everclip.errors import DataError
from everclip.evaluation.ordering import Ordering
from everclip.objectives.ordering import Ordering as OrderObjective
from everclip.types import ClassSet, Positive, Session, Task, TaskSequence

COLUMNS = ("filepath", "title", "cname", "value")
WEIGHT = "sample_weights_by_class"


class Row(NamedTuple):
    """A line of a table; `weight` is None where the column is missing."""

    path: Path
    title: str
    category: str
    value: float
    weight: float | None


def ordering_table(
    *,
    file: str,
    test_file: str,
    root: str | None = None,
    way: Positive | None = None,
    broken: Broken = "refuse",
    name: str | None = None,
) -> TaskSequence:
    """A sequence of categories to order pictures by; all are evaluated after each session.

    Args:
        file: table of training pictures; its weights say how often a picture is drawn in its category.
        test_file: table of test pictures, of the same categories.
        root: folder that the paths start from and that holds all pictures; None: the training table's own.
        way: categories per session, in the order of the training table; None: all in one.
        broken: what is done where files are damaged, see `readable`.
        name: of the sequence; None: after `file`.

    Raises:
        MissingError: no such table.
        DataError: a table of another form, a picture that is not there or twice in a category, a category with two
            texts or without training or test pictures.
    """
    path, top = Path(file).expanduser(), Path(file).expanduser().parent if root is None else Path(root).expanduser()
    rows = _read(path, top, "file")
    count, rows = len(rows), rows + _read(Path(test_file).expanduser(), top, "test_file")
    kept = readable([row.path for row in rows], PICTURES, broken)
    if lost := {row.category for row in rows} - {rows[index].category for index in kept}:
        raise DataError(f"{path}: category {min(lost)!r} has damaged files alone")
    train, test = ([rows[i] for i in kept if (i < count) == first] for first in (True, False))
    titles = _titles([*train, *test])
    for table, rows in ((file, train), (test_file, test)):
        if absent := sorted(set(titles) - {row.category for row in rows}):
            raise DataError(f"{table} has no picture of category {absent[0]!r}, which the other table has")
    warn_of_twins(_pictures(train, top), _pictures(test, top))
    # The text is the name: no more is known of it, and it may hold the category's name anywhere or not at all.
    everything = ClassSet(tuple(range(len(titles))), tuple(titles.values()), ("{}",))
    categories, size = list(titles), way or len(titles)
    sessions, tasks = [], []
    for index, start in enumerate(range(0, len(categories), size)):
        some = categories[start : start + size]
        new, seen = (everything.select(range(first, start + len(some))) for first in (start, 0))
        title = some[0] if len(some) == 1 else f"session_{index:02d}"
        own, judged = (_ordered(rows, some, start, top) for rows in (train, test))
        sessions.append(Session(index, title, new, seen, own, objective=OrderObjective()))
        tasks.append(Task(title, new, judged, Ordering(), index))
    return TaskSequence(
        name or f"ordering_table_{path.stem}", tuple(sessions), tuple(tasks), "ordering", evaluate="all"
    )


def _read(path: Path, top: Path, key: str) -> list[Row]:
    """The lines of a table, checked one by one."""
    lines = Table(path, read_text(path, f"sequence.{key}"), "\t")
    header = lines.columns
    if not set(COLUMNS) <= set(header) or len(set(header)) < len(header):
        raise DataError(f"{path}: the first line must name the columns {', '.join(COLUMNS)}, separated by tabs")
    rows: list[Row] = []
    seen: set[tuple[Path, str]] = set()
    for number, values in lines:
        place = f"{path}, line {number}"
        weight = _number(values[WEIGHT], WEIGHT, place) if WEIGHT in values else None
        value = _number(values["value"], "value", place)
        row = Row(listed(top, values["filepath"], place), values["title"], values["cname"], value, weight)
        if not row.title or not row.category:
            raise DataError(f"{place}: no title or no cname")
        if weight is not None and weight <= 0:
            raise DataError(f"{place}: {WEIGHT} {weight} must be above 0")
        if (row.path, row.category) in seen:
            raise DataError(f"{place}: {row.path} is in category {row.category!r} already")
        seen.add((row.path, row.category))
        rows.append(row)
    return rows


def _number(text: str, column: str, place: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{place}: {column} {text!r} is no number")
    return number


def _titles(rows: Sequence[Row]) -> dict[str, str]:
    """The text of each category, in order of appearance."""
    titles: dict[str, str] = {}
    for row in rows:
        if titles.setdefault(row.category, row.title) != row.title:
            raise DataError(
                f"category {row.category!r} has the titles {titles[row.category]!r} and {row.title!r}, but its "
                "pictures must be ordered by one text"
            )
    return titles


def _pictures(rows: Sequence[Row], top: Path) -> FileImages:
    """Each file of a table once."""
    paths = list(dict.fromkeys(row.path for row in rows))
    return FileImages(paths, np.zeros(len(paths), dtype=np.int64), top)


def _ordered(rows: Sequence[Row], categories: Sequence[str], first: int, top: Path) -> OrderedImages:
    """The pictures of some categories, whose ids begin with `first`."""
    ids = {category: first + position for position, category in enumerate(categories)}
    own = [row for row in rows if row.category in ids]
    pictures = FileImages([row.path for row in own], np.array([ids[row.category] for row in own], dtype=np.int64), top)
    weights = None if own[0].weight is None else np.array([row.weight for row in own], dtype=np.float64)
    return OrderedImages(pictures, np.array([row.value for row in own], dtype=np.float64), weights)
