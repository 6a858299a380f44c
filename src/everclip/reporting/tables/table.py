"""Puts published and obtained figures side by side: from a definition and runs to a grid of cells."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from everclip.metrics.matrix import harmonic_mean
from everclip.reporting import grid as grids
from everclip.reporting.grid import Cell, Grid, Line, Note, over_runs
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
) -> tuple[Grid, list[Entry]]:
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
    by_group: dict[str, list[Line]] = {}
    for entry in entries:
        by_group.setdefault(entry.group, []).extend(_lines(entry, columns, definition.metric))
    lines = [line for group in by_group.values() for line in group]
    notes = [
        Note("", [(definition.note, "")] if definition.note else []),
        Note("Sources of published figures", [(f"{key}: {text}", "") for key, text in definition.sources.items()]),
        Note("Marks", _marks(lines)),
        Note("Disputed", [(f"{d.row}, {d.column}: {d.note}", "") for d in definition.disputed]),
        Note("Commits", _commits(entries)),
        *missing_and_left_out(entries, runs, found, outputs),
    ]
    grid = Grid(definition.title, _columns(columns, lines), lines, [note for note in notes if note.items])
    return _without_empty_columns(grid).with_best(), entries


def _columns(columns: Sequence[Column], lines: Sequence[Line]) -> list[grids.Column]:
    """Texts around the figures; kind, seeds and sources are not shown where they say nothing."""
    kinds, seeds, sources = ({line.cells[index].value for line in lines} for index in (1, 2, -1))
    return [
        grids.Column("method", numeric=False, name="row"),
        grids.Column("figures", numeric=False, shown=len(kinds) > 1),
        grids.Column("seeds", numeric=False, shown=seeds > {""}, stored=False),
        *(grids.Column(c.heading, better=c.better, digits=c.digits, name=c.name) for c in columns),
        grids.Column("source", numeric=False, shown=sources > {""}),
    ]


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
    """A row's published and obtained figures, and their difference."""
    row = entry.row

    def make(kind: str, figures: Sequence[Cell], seeds: str = "", source: str = "") -> Line:
        texts = [Cell(text) for text in (row.name, kind, seeds)]
        return Line([*texts, *figures, Cell(source)], entry.group, compared=kind != "difference")

    read = [row.figure(column) for column in columns]
    published = [Cell() if figure is None else Cell(figure[0], verified=figure[1]) for figure in read]
    if row.published:
        yield make("published", published, source=", ".join(dict.fromkeys(block.source for block in row.published)))
    if not entry.experiments:
        return
    obtained = [over_runs(entry.values(column, metric)) for column in columns]
    made, wanted = len(entry.seeds), len(row.seeds)
    yield make("obtained", obtained, seeds=str(made) if made == wanted else f"{made}/{wanted}")
    both = [(o.number, p.number) for o, p in zip(obtained, published, strict=True)]
    differences = [Cell() if o is None or p is None else Cell(o - p, signed=True) for o, p in both]
    if any(cell.value is not None for cell in differences):
        yield make("difference", differences)


def _without_empty_columns(grid: Grid) -> Grid:
    """Leaves out columns without any figure, unless that is all of them."""
    texts = {index for index, column in enumerate(grid.columns) if not column.numeric}
    figures = {index for line in grid.lines for index, cell in enumerate(line.cells) if cell.number is not None}
    return grid.only(sorted(texts | figures)) if figures else grid


def _marks(lines: Sequence[Line]) -> list[tuple[str, str]]:
    cells = [cell for line in lines for cell in line.cells]
    return [
        *(
            [("† not verified: quoted or recalled, not read in its source", "")]
            if any(cell.verified is False for cell in cells)
            else []
        ),
        *([("± sample standard deviation over the seeds", "")] if any(cell.std is not None for cell in cells) else []),
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
