"""A grid of cells: what the console, tables and pages show, before any format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from everclip.reporting.plain import plain


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        value: a figure or a text; None where there is none.
        std: sample standard deviation over `n` runs, None for a single one.
        n: runs behind the value.
        verified: of a published figure, whether it was read in its source; None for figures of ours.
        signed: whether a positive figure shows its sign.
        best: whether it is the best of its column.
    """

    value: float | str | None = None
    std: float | None = None
    n: int = 0
    verified: bool | None = None
    signed: bool = False
    best: bool = False

    @property
    def number(self) -> float | None:
        """The value if it is a figure."""
        return self.value if isinstance(self.value, int | float) else None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: shown.
        numeric: set to the right.
        better: `high`, `low`, or empty where no value is the best.
        digits: of figures that are no whole numbers, after the point.
        name: in machine-readable formats; the heading if empty.
        shown: whether people see it.
        stored: whether machine-readable formats have it.
    """

    heading: str
    numeric: bool = True
    better: str = ""
    digits: int = 2
    name: str = ""
    shown: bool = True
    stored: bool = True

    def text(self, cell: Cell, empty: str = "") -> str:
        """`60.91 ± 0.35`, `+0.32` if signed, `81.58†` if not verified, a text as one line."""
        if cell.value is None or isinstance(cell.value, str):
            return empty if cell.value is None else plain(cell.value)
        if isinstance(cell.value, int):
            text = f"{cell.value:,}"
        else:
            text = f"{cell.value:{'+' if cell.signed else ''},.{self.digits}f}"
        exact = cell.std is None or (cell.std == 0 and not self.better)  # counts that do not vary
        return f"{text}{'' if exact else f' ± {cell.std:,.{self.digits}f}'}{'†' if cell.verified is False else ''}"


@dataclass(frozen=True)
class Line:
    """Cells from left to right.

    Attributes:
        cells: as many as columns.
        group: lines of a group stand together.
        compared: whether its figures may be the best.
    """

    cells: list[Cell]
    group: str = ""
    compared: bool = True


@dataclass(frozen=True)
class Note:
    """A list below a grid: texts, each with a command line where one helps."""

    title: str
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """Rows under columns.

    Attributes:
        title: above.
        columns: from left to right.
        lines: those of a group one after the other.
        notes: below.
        empty: shown where there is no value.
    """

    title: str
    columns: list[Column]
    lines: list[Line]
    notes: list[Note] = field(default_factory=list)
    empty: str = ""

    def texts(self, line: Line) -> list[str]:
        """What the cells of a line show."""
        return [column.text(cell, self.empty) for column, cell in zip(self.columns, line.cells, strict=True)]

    def cell(self, line: Line, heading: str) -> Cell:
        """The cell of a line below the first column of a heading."""
        return line.cells[[column.heading for column in self.columns].index(heading)]

    def for_people(self) -> Grid:
        """The grid without columns that are not shown."""
        return self.only(index for index, column in enumerate(self.columns) if column.shown)

    def only(self, kept: Iterable[int]) -> Grid:
        """The grid with some of its columns."""
        chosen = list(kept)
        lines = [replace(line, cells=[line.cells[index] for index in chosen]) for line in self.lines]
        return replace(self, columns=[self.columns[index] for index in chosen], lines=lines)

    def with_best(self) -> Grid:
        """The grid with the best figure of each group and column marked, as it is shown, where at least two compete."""
        cells = [list(line.cells) for line in self.lines]
        for group in dict.fromkeys(line.group for line in self.lines):
            competing = [
                own for own, line in zip(cells, self.lines, strict=True) if line.compared and line.group == group
            ]
            for index, column in enumerate(self.columns):
                numbers = [(own, own[index].number) for own in competing]
                shown = [(own, round(number, column.digits)) for own, number in numbers if number is not None]
                if len(shown) > 1 and column.better:
                    best = (max if column.better == "high" else min)(value for _, value in shown)
                    for own, value in shown:
                        own[index] = replace(own[index], best=value == best)
        return replace(self, lines=[replace(line, cells=own) for line, own in zip(self.lines, cells, strict=True)])


def over_runs(values: Sequence[float | None]) -> Cell:
    """Mean and sample standard deviation of a figure over runs; empty if any run lacks it, or there is none."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Cell()
    return Cell(float(fmean(known)), stdev(known) if len(known) > 1 else None, len(known))
