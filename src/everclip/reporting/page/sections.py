"""The tables of a page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from everclip.metrics.protocol import Measure, Protocol
from everclip.reporting.grid import Cell, Column, Grid, Line, Note, over_runs
from everclip.reporting.page.runs import grouped
from everclip.reporting.results import results_grid
from everclip.reporting.stored import SILENT, Odd, Run, flat
from everclip.runs.again import command

EMPTY = "–"


def _cell(value: Any) -> Cell:
    """A figure as one, anything else as text."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return Cell(value)
    return Cell(str(value))


def _grid(title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Grid:
    """A grid of plain values, or of cells."""
    lines = [Line([value if isinstance(value, Cell) else _cell(value) for value in row]) for row in rows]
    return Grid(title, [Column(heading) for heading in headings], lines, empty=EMPTY)


def results_of(groups: dict[str, list[Run]], protocol: Protocol) -> Grid:
    """The entry per session and what follows from it, one row per label, over seeds."""
    results = {label: [run.result for run in runs] for label, runs in groups.items()}
    title = f"After each session, {protocol.title}; mean ± standard deviation over seeds"
    grid = results_grid(results, [*protocol.columns, *_measured(groups, protocol.details)], title)
    return replace(grid, notes=[Note("", [(text, "") for text in _cut_short(groups)])], empty=EMPTY)


def diagnostics_of(groups: dict[str, list[Run]], protocol: Protocol) -> Grid | None:
    """What tells why the results are as they are, one row per label, over seeds."""
    measures = _measured(groups, protocol.diagnostics)
    columns = [Column(m.heading, better=m.better, digits=m.digits) for m in measures]
    rows = [
        Line([Cell(label), *(over_runs([run.summary.get(m.key) for run in runs]) for m in measures)])
        for label, runs in groups.items()
    ]
    title = "Diagnostics after the last session; mean ± standard deviation over seeds"
    grid = Grid(title, [Column("method", numeric=False), *columns], rows, empty=EMPTY)
    return grid.with_best() if measures else None


def _measured(groups: dict[str, list[Run]], measures: Iterable[Measure]) -> list[Measure]:
    """Those of some measures that any run has; earlier versions had fewer."""
    known = {key for runs in groups.values() for run in runs for key in run.summary}
    return [measure for measure in measures if measure.key in known]


def _cut_short(groups: dict[str, list[Run]]) -> Iterator[str]:
    """Which rows are of runs that were told to end early, or to look at less."""
    for label, runs in groups.items():
        limits = {key: runs[0].settings.get(key) for key in ("max_sessions", "train.max_steps")}
        cuts = [f"{key}={value}" for key, value in limits.items() if value is not None]
        if cuts:
            yield f"{label}: cut short by {' and '.join(cuts)}; its figures are those of the sessions shown."
        less = [f"{key}={runs[0].settings[key]}" for key in ("limit", "overfit") if runs[0].settings.get(key)]
        if less:
            yield f"{label}: no result, {' and '.join(less)} is for finding faults."


def cost_of(groups: dict[str, list[Run]]) -> Grid:
    """What the runs of each label took, over seeds."""
    rows = []
    for label, runs in groups.items():
        seconds = [[run.summary[f"{kind}_seconds"] for run in runs] for kind in ("train", "eval")]
        rates = [fmean(record["eval_images_per_second"] for record in run.records) for run in runs]
        memory = [run.summary["peak_memory_mb"] for run in runs]
        rows.append(
            [
                label,
                runs[0].summary["trainable_parameters"],
                runs[0].summary["total_parameters"],
                *map(over_runs, [*seconds, rates, memory]),
                ", ".join(sorted({f"{run.facts['devices']} x {run.facts['device']}" for run in runs})),
                ", ".join(sorted({run.facts["precision"] for run in runs})),
            ]
        )
    headings = ["method", "trained", "parameters", "training (s)", "evaluation (s)", "pictures/s", "memory (MB)"]
    return _grid("Cost per run", [*headings, "device", "precision"], rows)


def sessions_of(run: Run) -> Grid:
    """The sessions of one run."""
    keys = {
        "session": "index", "name": "name", "classes": "seen_classes", "pictures": "train_images",
        **{measure.heading: measure.key for measure in run.result.protocol.line},
        "steps": "train_steps", "training (s)": "train_seconds", "evaluation (s)": "eval_seconds",
    }  # fmt: skip
    rows = [[record.get(key) for key in keys.values()] for record in run.records]
    return _grid("Sessions of this run, scores in %", list(keys), rows)


def runs_of(runs: Sequence[Run], root: Path) -> Grid:
    """Every run with its state."""
    rows = []
    own = [name for name in ("tags", "notes") if any(run.facts.get(name) for run in runs)]
    for run in runs:
        attempts = run.facts.get("attempts") or [{}]
        told = {**run.facts, "tags": ", ".join(run.facts.get("tags", ()))}
        rows.append(
            [
                run.label,
                *(run.facts.get(key) for key in ("sequence", "backbone", "seed", "state")),
                len(run.records),
                run.summary.get(f"last_{run.result.protocol.entry}"),
                len(attempts),
                attempts[0].get("start"),
                *(told.get(name) or None for name in own),
                command(run.folder.path, run.facts),
                _relative(run.folder.path, root),
            ]
        )
    columns = ["method", "sequence", "backbone", "seed", "state", "sessions", "last", "attempts", "started"]
    columns += [*own, "command", "folder"]
    return _grid("All runs", columns, rows)


def _relative(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)


def failures_of(runs: Sequence[Run], odd: Sequence[Odd], root: Path) -> Grid | None:
    """The runs without a result that can be shown, why, and how they go on."""
    reasons = [
        (run, (run.facts.get("attempts") or [{}])[-1].get("reason") or "no end recorded: still running, or killed")
        for run in runs
        if not run.finished
    ]
    rows = []
    for run, reason in [*reasons, *((one.run, one.reason) for one in odd)]:
        facts = run.facts
        label = facts.get("method", "?") if run.label == "?" else run.label
        cells = [label, facts.get("seed"), facts.get("state"), len(run.records), reason]
        rows.append([*cells, command(run.folder.path, facts), _relative(run.folder.path, root)])
    columns = ["method", "seed", "state", "sessions done", "last error", "goes on with", "folder"]
    return _grid("Runs without a result", columns, rows) if rows else None


def differences_of(runs: Sequence[Run]) -> Grid | None:
    """Settings in which configurations differ; seeds and places are no difference."""
    groups = {label: members[0].settings for label, members in grouped(runs).items() if members[0].settings}
    keys = sorted({key for settings in groups.values() for key in settings if not key.startswith(("seed", *SILENT))})
    rows = []
    for key in keys:
        values = [str(settings[key]) if key in settings else None for settings in groups.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return _grid("Settings that differ", ["setting", *groups], rows) if rows else None


def settings_of(runs: Sequence[Run]) -> Grid:
    """The settings that all configurations share."""
    first, *others = [run.settings for run in runs if run.settings] or [{}]
    shared = {key: value for key, value in first.items() if all(other.get(key, ...) == value for other in others)}
    title = "All settings" if len(grouped(runs)) < 2 else "Settings that all share"
    return _grid(title, ["setting", "value"], [[key, str(value)] for key, value in shared.items()])


def environment_of(runs: Sequence[Run]) -> Grid:
    """Versions, commit, machine, weights and data, each value with the number of runs that had it."""
    wanted = ("commit", "host", "platform", "gpu", "device", "precision", "weights", "class_order", "templates")
    counts: dict[tuple[str, str], int] = {}
    for run in runs:
        facts = {key: run.facts[key] for key in wanted if key in run.facts}
        facts |= {f"data {run.facts['sequence']}": run.facts["fingerprint"]} if "fingerprint" in run.facts else {}
        for key, value in flat(run.facts.get("versions", {}) | facts):
            entry = key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            counts[entry] = counts.get(entry, 0) + 1
    rows = [[key, value, count] for (key, value), count in sorted(counts.items())]
    return _grid("Versions, machines, weights and data", ["fact", "value", "runs"], rows)
