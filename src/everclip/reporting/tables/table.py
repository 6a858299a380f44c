"""Puts published and obtained figures side by side: from a definition and runs to lines of cells and notes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from everclip.metrics.matrix import harmonic_mean
from everclip.reporting.results import Result
from everclip.reporting.tables.composed import Composer
from everclip.reporting.tables.definition import COLUMNS, Column, Definition, Row
from everclip.reporting.tables.experiments import (
    OUTPUTS,
    Experiment,
    Runs,
    Sorted,
    commands,
    make_experiment,
    sort_runs,
)
from everclip.runs.folder import RunFolder
from everclip.runs.scores import scores_of


@dataclass(frozen=True)
class Cell:
    """One figure; None where there is none. `std` over `n` seeds, None for a single one."""

    value: float | None = None
    std: float | None = None
    n: int = 0
    verified: bool = True
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One line of the table: a row's published or obtained figures, or their difference."""

    group: str
    row: str
    kind: str
    seeds: str
    source: str
    cells: list[Cell]


@dataclass(frozen=True)
class Note:
    """A list below the table: texts, each with a command line where one helps."""

    title: str
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """What the formats show."""

    title: str
    columns: list[Column]
    lines: list[Line]
    notes: list[Note]


@dataclass(frozen=True)
class Entry:
    """A row with the experiments it is the mean of (by the part of the table they belong to) and their runs."""

    group: str
    row: Row
    experiments: list[tuple[str, Experiment]]
    used: dict[str, dict[int, Result]] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Seeds of which there is any run."""
        return [seed for seed in self.row.seeds if any(seed in self.used[e.digest] for _, e in self.experiments)]

    def values(self, column: Column, metric: str) -> list[float]:
        """The obtained figure of each seed that has all its runs."""
        digests = [e.digest for part, e in self.experiments if column.key != "parts" or part == column.override]
        shown = COLUMNS[metric] if column.key in ("parts", "mean") else column
        values = []
        for seed in self.row.seeds:
            results = [self.used[key][seed] for key in digests if seed in self.used[key]]
            if digests and len(results) == len(digests):
                value = _value(results, shown)
                values += [] if value is None else [value]
        return values

    def lacking(self) -> Iterator[tuple[list[Experiment], tuple[int, ...]]]:
        """The experiments that lack runs, by the seeds they lack."""
        by_seeds: dict[tuple[int, ...], list[Experiment]] = {}
        for _, experiment in self.experiments:
            seeds = tuple(seed for seed in experiment.seeds if seed not in self.used[experiment.digest])
            if seeds:
                by_seeds.setdefault(seeds, []).append(experiment)
        for seeds, experiments in by_seeds.items():
            yield experiments, seeds

    @property
    def results(self) -> list[Result]:
        """All runs that are shown."""
        of_digest = [self.used[experiment.digest] for _, experiment in self.experiments]
        return [runs[seed] for runs in of_digest for seed in self.row.seeds if seed in runs]


def make_entries(definition: Definition, overrides: Sequence[str], seeds: Sequence[int]) -> list[Entry]:
    """The rows with their experiments composed.

    Args:
        definition: of the table.
        overrides: added to every run.
        seeds: instead of every row's own; empty: as defined.
    """
    composer, entries = Composer(), []
    for group, row in definition.all_rows():
        chosen = row.model_copy(update={"seeds": tuple(seeds)}) if seeds else row
        experiments = [
            (part, make_experiment([*shlex.split(run), *shlex.split(part), *overrides], chosen.seeds, composer))
            for run in row.runs
            for part in (definition.parts.values() or [""])
        ]
        entries.append(Entry(group, chosen, experiments))
    composer.save()
    return entries


def make_table(
    definition: Definition, entries: Sequence[Entry], runs: Runs, outputs: str = OUTPUTS
) -> tuple[Table, list[Entry]]:
    """The table, and the entries with their runs.

    Args:
        definition: of the table.
        entries: from `make_entries`.
        runs: found.
        outputs: where the printed commands shall write.
    """
    found = sort_runs(runs.finished, [experiment for entry in entries for _, experiment in entry.experiments])
    entries = [replace(entry, used=found.used) for entry in entries]
    columns = list(definition.all_columns())
    lines = [line for entry in entries for line in _lines(entry, columns, definition.metric)]
    columns, lines = _without_empty_columns(columns, lines)
    groups = {entry.group: [line for line in lines if line.group == entry.group] for entry in entries}
    lines = [line for group in groups.values() for line in _mark_best(group, columns)]
    notes = [
        Note("", [(definition.note, "")] if definition.note else []),
        Note("Sources of published figures", [(f"{key}: {text}", "") for key, text in definition.sources.items()]),
        Note("Marks", _marks(lines)),
        Note("Disputed", [(f"{d.row}, {d.column}: {d.note}", "") for d in definition.disputed]),
        Note("Commits", _commits(entries)),
        *missing_and_left_out(entries, runs, found, outputs),
    ]
    return Table(definition.title, columns, lines, [note for note in notes if note.items]), entries


def missing_and_left_out(entries: Sequence[Entry], runs: Runs, found: Sorted, outputs: str) -> list[Note]:
    """Runs that are not there with the commands that make them, and folders that are not shown with the reasons."""
    states = {(run["digest"], run["seed"]): str(run.get("state")) for run in runs.unfinished}
    missing = {}
    for entry in entries:
        for experiments, seeds in entry.lacking():
            runs_of = [(experiment.digest, seed) for experiment in experiments for seed in seeds]
            begun = sorted({states[key] for key in runs_of if key in states})
            text = ", ".join([entry.row.name, seeds_text(seeds), *begun])
            missing.update(dict.fromkeys(commands(experiments, seeds, outputs), text))
    stale: dict[tuple[str, str], list[str]] = {}
    for result, reason in found.stale:
        stale.setdefault((result.run["method"], reason), []).append(str(result.folder))
    listed = [
        (f"{method}, {len(folders)} x: {reason}: {folders[0]}", "") for (method, reason), folders in stale.items()
    ]
    again = "to make one anew, run its command with restart=true"
    return [
        Note("Missing runs", [(text, command) for command, text in missing.items()]),
        Note(f"Stale runs, left out ({again})", listed),
        Note(f"Damaged run folders, left out ({again})", [(f"{path}: {reason}", "") for path, reason in runs.damaged]),
    ]


def seeds_text(seeds: Sequence[int]) -> str:
    """`seed 3`, `seeds 0, 1`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _value(results: Sequence[Result], column: Column) -> float | None:
    """One figure of one run, or of several as their mean; the harmonic mean is that of the means."""
    if column.key == "harmonic_mean" and len(results) > 1:
        base, novel = _value(results, COLUMNS["base_accuracy"]), _value(results, COLUMNS["novel_accuracy"])
        return None if base is None or novel is None else harmonic_mean(base, novel)
    values = [_read(result, column) for result in results]
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _read(result: Result, column: Column) -> float | None:
    summary, index = result.summary, column.index
    if column.key == "sessions" and index is not None:
        return result.curve[index] if index < len(result.curve) else None
    if column.key == "minutes" and {"train_seconds", "eval_seconds"} <= set(summary):
        return (summary["train_seconds"] + summary["eval_seconds"]) / 60
    if summary.get(column.key) is not None:
        return float(summary[column.key])
    records = RunFolder(result.folder).read_sessions()
    last = records[-1] if records else {"tasks": []}
    if column.key != "tasks":
        return None if last.get(column.key) is None else float(last[column.key])
    scores = {task["task"]: scores_of(task) for task in last["tasks"]}.get(index, {})
    return scores[result.protocol.entry].value if result.protocol.entry in scores else None


def _lines(entry: Entry, columns: Sequence[Column], metric: str) -> Iterable[Line]:
    row = entry.row
    figures = [row.figure(column) for column in columns]
    published = [Cell() if figure is None else Cell(figure[0], verified=figure[1]) for figure in figures]
    source = ", ".join(dict.fromkeys(block.source for block in row.published))
    if row.published:
        yield Line(entry.group, row.name, "published", "", source, published)
    if not entry.experiments:
        return
    obtained = []
    for column in columns:
        values = entry.values(column, metric)
        std = stdev(values) if len(values) > 1 else None
        obtained.append(Cell(fmean(values), std, len(values)) if values else Cell())
    made, wanted = len(entry.seeds), len(row.seeds)
    yield Line(entry.group, row.name, "obtained", str(made) if made == wanted else f"{made}/{wanted}", "", obtained)
    both = list(zip(obtained, published, strict=True))
    differences = [Cell(o.value - p.value) if o.value is not None and p.value is not None else Cell() for o, p in both]
    if any(cell.value is not None for cell in differences):
        yield Line(entry.group, row.name, "difference", "", "", differences)


def _without_empty_columns(columns: list[Column], lines: list[Line]) -> tuple[list[Column], list[Line]]:
    """Leaves out columns without any figure, unless that is all of them."""
    kept = [i for i in range(len(columns)) if any(line.cells[i].value is not None for line in lines)]
    kept = kept or list(range(len(columns)))
    return [columns[i] for i in kept], [replace(line, cells=[line.cells[i] for i in kept]) for line in lines]


def _mark_best(lines: Sequence[Line], columns: Sequence[Column]) -> list[Line]:
    """Marks the best value of each column, as it is shown, where at least two compete."""
    rows = [list(line.cells) for line in lines]
    for index, column in enumerate(columns):
        shown = [
            (row, round(row[index].value or 0.0, column.digits))
            for row, line in zip(rows, lines, strict=True)
            if line.kind != "difference" and row[index].value is not None
        ]
        if len(shown) > 1 and column.better:
            best = (max if column.better == "high" else min)(value for _, value in shown)
            for row, value in shown:
                row[index] = replace(row[index], best=value == best)
    return [replace(line, cells=row) for line, row in zip(lines, rows, strict=True)]


def _marks(lines: Sequence[Line]) -> list[tuple[str, str]]:
    unverified = any(not cell.verified for line in lines for cell in line.cells)
    seeds = any(cell.std is not None for line in lines for cell in line.cells)
    return [
        *([("† not verified: quoted or recalled, not read in its source", "")] if unverified else []),
        *([("± sample standard deviation over the seeds", "")] if seeds else []),
    ]


def _commits(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Which rows were obtained with which code."""
    rows: dict[str, list[str]] = {}
    for entry in entries:
        for commit in dict.fromkeys(commit_of(result) for result in entry.results):
            rows.setdefault(commit, []).append(entry.row.name)
    if len(rows) == 1:
        return [(f"obtained at {commit}", "") for commit in rows]
    return [(f"{commit}: {', '.join(names)}", "") for commit, names in rows.items()]


def commit_of(result: Result) -> str:
    """Commit in short, or the installed version."""
    commit = result.run.get("commit")
    version = (result.run.get("versions") or {}).get("everclip", "unknown")
    return commit[:8] + commit[40:] if commit else f"everclip {version}"
