"""What a table consists of: columns, published figures with their sources, and experiments of ours.

One YAML file per table, `conf/table/<name>.yaml`:

- `title`, `note`: above and below the table; `digits` of its accuracies.
- `sessions: 9`: a column per session, accuracy over the classes seen so far (sessions 0 to 8).
- `tasks: [DTD, ...]`: a column per task, accuracy on it after the last session.
- `parts: {DTD: <overrides>, ...}`: a column per part with runs of its own, showing `metric`; then their mean.
- `columns: [average_accuracy, ...]`: names of `COLUMNS`, or `{key, heading, better, digits}` for any other key of a
  run's summary; the first is the row's figure in `REPRODUCTION.md`.
- `sources: {a: ...}`: where published figures were read.
- `rows: {group: [row, ...]}`: the best of each group is bold. A row has a `name` and
  `published: [{source: a, verified: true, <column>: figure, ...}]`, or `run: <overrides>` with `seeds`, or both.
  A list of runs stands for their mean. `each: method` makes one row per option of a group, named `{}` in `run`.
  `gap` says why obtained and published differ.
  `verified` figures were read in the source itself; those quoted, recalled or inferred are not, and are marked.
- `disputed: [{row, column, note}]`: figures on which the literature disagrees with itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pydantic

from everclip.config.catalogue import option_names
from everclip.config.files import read_file
from everclip.config.schema import conf_dir
from everclip.errors import ConfigError, MissingError, nearest
from everclip.metrics.matrix import harmonic_mean
from everclip.metrics.protocol import Measure, every


@dataclass(frozen=True)
class Column(Measure):
    """One column: a measure of a run's summary and of published figures.

    Attributes:
        index: position in a list of figures (sessions, tasks, parts).
        override: what a row's run needs besides for this column (parts).
    """

    index: int | None = None
    override: str = ""

    @property
    def name(self) -> str:
        """Name in machine-readable output: `sessions/3`, `average_accuracy`."""
        return self.key if self.index is None else f"{self.key}/{self.index}"


COLUMNS = {
    column.key: column
    for column in (
        Column("average_accuracy", "Avg"),
        Column("last_accuracy", "Last"),
        Column("performance_drop", "PD", "low"),
        Column("forgetting", "Forgetting", "low"),
        Column("transfer", "Transfer"),
        Column("avg", "Avg"),
        Column("last", "Last"),
        Column("base_accuracy", "Base"),
        Column("novel_accuracy", "Novel"),
        Column("harmonic_mean", "HM"),
        Column("zero_shot_after", "Zero-shot"),
        Column("trainable_parameters", "Trained", "", 0),
        Column("minutes", "Minutes", "", 1),
    )
}
for _measure in (m for protocol in every() for m in (*protocol.columns, *protocol.details, *protocol.diagnostics)):
    COLUMNS.setdefault(_measure.key, Column(**asdict(_measure)))
LISTS = ("sessions", "tasks", "parts")


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)


class Published(_Strict):
    """Figures of one source: by column name, lists with null for what the source does not give."""

    source: str
    verified: bool
    figures: dict[str, float | list[float | None]]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _gather(cls, data: dict[str, Any]) -> dict[str, Any]:
        own = ("source", "verified")
        figures = {str(key): value for key, value in data.items() if key not in own}
        return {**{key: data[key] for key in own if key in data}, "figures": figures}

    def given(self, column: Column) -> float | None:
        """The printed figure."""
        value = self.figures.get(column.key)
        if isinstance(value, list):
            return None if column.index is None else value[column.index]
        return value

    def derived(self, column: Column) -> float | None:
        """The figure that follows from other printed ones."""
        curve = self._list("sessions")
        sessions, tasks, parts = (self._whole(key) for key in LISTS)
        base, novel = self.figures.get("base_accuracy"), self.figures.get("novel_accuracy")
        if column.key == "average_accuracy" and sessions:
            return fmean(sessions)
        if column.key == "last_accuracy":
            return curve[-1]
        if column.key == "performance_drop" and curve[0] is not None and curve[-1] is not None:
            return curve[0] - curve[-1]
        if column.key == "last" and tasks:
            return fmean(tasks)
        targets = self._list("tasks")[1:]
        if column.key == "target_accuracy" and targets and None not in targets:
            return fmean(value for value in targets if value is not None)
        if column.key == "mean" and parts:
            return fmean(parts)
        if column.key == "harmonic_mean" and isinstance(base, float) and isinstance(novel, float):
            return harmonic_mean(base, novel)
        return None

    def _list(self, key: str) -> list[float | None]:
        values = self.figures.get(key)
        return values if isinstance(values, list) else [None]

    def _whole(self, key: str) -> list[float]:
        """A list of figures of which none is missing, else an empty one."""
        known = [value for value in self._list(key) if value is not None]
        return known if len(known) == len(self._list(key)) else []


class Row(_Strict):
    """One method with one setting: published, an experiment of ours, or both."""

    name: str = ""
    run: str | list[str] = ""
    seeds: tuple[int, ...] = pydantic.Field((0, 1, 2), strict=False, min_length=1)
    each: str = ""
    published: list[Published] = []
    gap: str = ""

    @property
    def runs(self) -> list[str]:
        """The overrides of each run that the row is the mean of."""
        return self.run if isinstance(self.run, list) else [self.run] if self.run else []

    def figure(self, column: Column) -> tuple[float, bool] | None:
        """The published figure and whether it is verified: a verified one before others, printed before derived."""
        for verified in (True, False):
            for read in (Published.given, Published.derived):
                for block in self.published:
                    value = read(block, column)
                    if value is not None and block.verified is verified:
                        return value, verified
        return None


class Shown(_Strict):
    """A key of the runs' summaries that no protocol shows by itself."""

    key: str
    heading: str
    better: Literal["high", "low", ""] = "high"
    digits: int = 2


class Dispute(_Strict):
    """A figure on which the literature disagrees with itself."""

    row: str
    column: str
    note: str


class Definition(_Strict):
    """A whole table; see the module's docstring."""

    title: str
    note: str = ""
    sessions: int = 0
    tasks: list[str] = []
    parts: dict[str, str] = {}
    metric: str = "last_accuracy"
    digits: int = 2
    columns: list[str | Shown] = []
    sources: dict[str, str] = {}
    rows: dict[str, list[Row]]
    disputed: list[Dispute] = []

    @pydantic.model_validator(mode="after")
    def _check(self) -> Definition:
        own = [column.key for column in self.columns if isinstance(column, Shown)]
        for name in (*(name for name in self.columns if isinstance(name, str)), self.metric):
            if name not in COLUMNS:
                raise ValueError(f"column {name} is unknown{nearest(name, list(COLUMNS))}")
        lengths = {"sessions": self.sessions, "tasks": len(self.tasks), "parts": len(self.parts)}
        for row in (row for rows in self.rows.values() for row in rows):
            if not (row.each and row.run) and not (row.name and (row.run or row.published)):
                raise ValueError(f"row {row.name!r} needs a name with published or run, or each with run")
            for block in row.published:
                for key, value in block.figures.items():
                    size = len(value) if isinstance(value, list) else None
                    if size != lengths.get(key) or (size is None and key not in (*COLUMNS, "mean", *own)):
                        raise ValueError(f"row {row.name}: {key} has no such column, or a list of another length")
                for source in block.source.split(", "):
                    if source not in self.sources:
                        raise ValueError(f"row {row.name}: source {source} is not among sources")
        return self

    def all_columns(self) -> Iterator[Column]:
        """The columns from left to right."""
        for column in self._columns():
            yield replace(column, digits=self.digits) if column.better else column

    def _columns(self) -> Iterator[Column]:
        metric = COLUMNS[self.metric]
        for index in range(self.sessions):
            yield Column("sessions", str(index), index=index)
        for index, task in enumerate(self.tasks):
            yield Column("tasks", task, index=index)
        for index, (part, override) in enumerate(self.parts.items()):
            yield Column("parts", part, metric.better, index=index, override=override)
        if self.parts:
            yield Column("mean", "Mean", metric.better)
        for column in self.columns:
            yield COLUMNS[column] if isinstance(column, str) else Column(**column.model_dump())

    def all_rows(self) -> Iterator[tuple[str, Row]]:
        """(group, row) in order, `each` replaced by the rows it stands for."""
        for group, rows in self.rows.items():
            for row in rows:
                for option in option_names(row.each) if row.each else ():
                    made = {"name": option, "run": [run.replace("{}", option) for run in row.runs], "each": ""}
                    yield group, row.model_copy(update=made)
                if not row.each:
                    yield group, row


def read_definition(name: str) -> Definition:
    """A table's definition by its name, or from a YAML file of one's own.

    Raises:
        ConfigError: the name is unknown, or the file does not define a table.
        MissingError: the file is not there.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else conf_dir() / "table" / f"{name}.yaml"
    if not path.is_file():
        if name.endswith((".yaml", ".yml")):
            raise MissingError(f"{name} is not there; give the file of a table, or one of: {_known()}")
        raise ConfigError(f"table {name} is unknown; there are: {_known()}{nearest(name, option_names('table'))}")
    try:
        return Definition.model_validate(read_file(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {place} {first['msg']}") from error


def _known() -> str:
    return ", ".join(option_names("table"))
