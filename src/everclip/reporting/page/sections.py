"""The tables of a page."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from everclip.metrics.protocol import Protocol
from everclip.reporting.page.runs import Run, flat, grouped
from everclip.reporting.results import mean_std


@dataclass(frozen=True)
class Cell:
    """One entry of a table: what is shown, what it is sorted by, and whether it is the best of its column."""

    text: str
    sort: float | str = ""
    best: bool = False


@dataclass
class Table:
    """A table of the page.

    Attributes:
        title: caption.
        columns: names.
        rows: cells, as many as columns.
        notes: sentences below.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def _text(value: Any) -> Cell:
    """A cell sorted as a number if it is one, else as text."""
    if isinstance(value, bool) or value is None or not isinstance(value, int | float):
        return Cell("–" if value is None else str(value), "" if value is None else str(value))
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:,.2f}", float(value))


def _numbers(values: Sequence[float | None]) -> Cell:
    """Mean and deviation over runs."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return Cell("–", "")
    return Cell(mean_std(numbers), float(np.mean(numbers)))


def _mark_best(rows: list[list[Cell]], signs: Mapping[int, int]) -> None:
    """Marks the best entries where there is a choice; columns with sign 1 want high values, with -1 low ones."""
    for column, sign in signs.items():
        values = [cell.sort for row in rows if isinstance((cell := row[column]).sort, float)]
        for row in rows:
            if len(values) > 1 and row[column].sort == sign * max(sign * value for value in values):
                row[column] = replace(row[column], best=True)


def results_of(groups: dict[str, list[Run]], protocol: Protocol) -> Table:
    """The entry per session and what follows from it, one row per label, over seeds."""
    sessions = max(len(run.result.curve) for runs in groups.values() for run in runs)
    named = {
        measure.heading: (measure.key, 1 if measure.better == "high" else -1)
        for measure in (*protocol.columns, *protocol.details)
    }
    rows = []
    for label, runs in groups.items():
        curves = [run.result.curve + [None] * (sessions - len(run.result.curve)) for run in runs]
        row = [_text(label), _text(len(runs)), *(_numbers(values) for values in zip(*curves, strict=True))]
        row += [_numbers([run.summary.get(key) for run in runs]) for key, _ in named.values()]
        rows.append(row)
    columns = ["method", "seeds", *(str(session) for session in range(sessions)), *named]
    signs = [1] * sessions + [sign for _, sign in named.values()]
    _mark_best(rows, {2 + position: sign for position, sign in enumerate(signs)})
    title = f"After each session, {protocol.title}; mean ± standard deviation over seeds"
    return Table(title, columns, rows, list(_warnings(groups)))


def _warnings(groups: dict[str, list[Run]]) -> Iterator[str]:
    """Differences within a row that its label does not show."""
    facts: dict[str, Callable[[dict[str, Any]], Any]] = {
        "commits": lambda facts: facts.get("commit"),
        "weights": lambda facts: facts.get("weights", {}).get("sha256"),
        "data": lambda facts: facts.get("fingerprint"),
        "precisions": lambda facts: facts.get("precision"),
    }
    for label, runs in groups.items():
        for name, read in facts.items():
            values = sorted({str(read(run.facts))[:12] for run in runs})
            if len(values) > 1:
                yield f"{label}: its runs differ in {name} ({', '.join(values)})."


def cost_of(groups: dict[str, list[Run]]) -> Table:
    """What the runs of each label took, over seeds."""
    rows = []
    for label, runs in groups.items():
        seconds = [[run.summary[f"{kind}_seconds"] for run in runs] for kind in ("train", "eval")]
        rates = [float(np.mean([record["eval_images_per_second"] for record in run.records])) for run in runs]
        rows.append(
            [
                _text(label),
                _text(runs[0].summary["trainable_parameters"]),
                _text(runs[0].summary["total_parameters"]),
                *(_numbers(values) for values in seconds),
                _numbers(rates),
                _numbers([run.summary["peak_memory_mb"] for run in runs]),
                _text(", ".join(sorted({f"{run.facts['devices']} x {run.facts['device']}" for run in runs}))),
                _text(", ".join(sorted({run.facts["precision"] for run in runs}))),
            ]
        )
    columns = ["method", "trained", "parameters", "training (s)", "evaluation (s)", "pictures/s", "memory (MB)"]
    return Table("Cost per run", [*columns, "device", "precision"], rows)


def sessions_of(run: Run) -> Table:
    """The sessions of one run."""
    keys = {
        "session": "index", "name": "name", "classes": "seen_classes", "pictures": "train_images",
        **{measure.heading: measure.key for measure in run.result.protocol.line},
        "steps": "train_steps", "training (s)": "train_seconds", "evaluation (s)": "eval_seconds",
    }  # fmt: skip
    rows = [[_text(record.get(key)) for key in keys.values()] for record in run.records]
    return Table("Sessions of this run, scores in %", list(keys), rows)


def runs_of(runs: Sequence[Run], root: Path) -> Table:
    """Every run with its state."""
    rows = []
    for run in runs:
        attempts = run.facts.get("attempts") or [{}]
        rows.append(
            [
                _text(run.label),
                *(_text(run.facts.get(key)) for key in ("sequence", "backbone", "seed", "state")),
                _text(len(run.records)),
                _text(run.summary.get(f"last_{run.result.protocol.entry}")),
                _text(len(attempts)),
                _text(attempts[0].get("start")),
                _text(_relative(run.folder.path, root)),
            ]
        )
    columns = ["method", "sequence", "backbone", "seed", "state", "sessions", "last", "attempts", "started", "folder"]
    return Table("All runs", columns, rows)


def _relative(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)


def failures_of(runs: Sequence[Run], root: Path) -> Table | None:
    """The runs without a result, why, and how they go on."""
    rows = []
    for run in runs:
        if not run.finished:
            attempts = run.facts.get("attempts") or [{}]
            damaged = "its sessions.jsonl or summary.json is missing or damaged"
            silent = damaged if run.facts.get("state") == "finished" else "no end recorded: still running, or killed"
            reason = attempts[-1].get("reason") or silent
            command = shlex.join(["everclip", *run.facts["overrides"]]) if "overrides" in run.facts else None
            cells = [run.label, run.facts.get("seed"), run.facts.get("state"), len(run.records), reason, command]
            rows.append([_text(value) for value in [*cells, _relative(run.folder.path, root)]])
    columns = ["method", "seed", "state", "sessions done", "last error", "goes on with", "folder"]
    return Table("Runs without a result", columns, rows) if rows else None


def differences_of(runs: Sequence[Run]) -> Table | None:
    """Settings in which configurations differ; seeds and places are no difference."""
    groups = {label: members[0].settings for label, members in grouped(runs).items() if members[0].settings}
    silent = ("seed", "paths.", "logger.", "log_level", "check")
    keys = sorted({key for settings in groups.values() for key in settings if not key.startswith(silent)})
    rows = []
    for key in keys:
        values = [str(settings[key]) if key in settings else None for settings in groups.values()]
        if len(set(values)) > 1:
            rows.append([_text(key), *map(_text, values)])
    return Table("Settings that differ", ["setting", *groups], rows) if rows else None


def settings_of(runs: Sequence[Run]) -> Table | None:
    """All settings, where all runs share them."""
    settings = runs[0].settings
    if len(grouped(runs)) > 1 or not settings:
        return None
    return Table("All settings", ["setting", "value"], [[_text(key), _text(value)] for key, value in settings.items()])


def environment_of(runs: Sequence[Run]) -> Table:
    """Versions, commit, machine, weights and data, each value with the number of runs that had it."""
    wanted = ("commit", "host", "platform", "gpu", "device", "precision", "weights", "class_order", "templates")
    counts: dict[tuple[str, str], int] = {}
    for run in runs:
        facts = {key: run.facts[key] for key in wanted if key in run.facts}
        facts |= {f"data {run.facts['sequence']}": run.facts["fingerprint"]} if "fingerprint" in run.facts else {}
        for key, value in flat(run.facts.get("versions", {}) | facts):
            entry = key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            counts[entry] = counts.get(entry, 0) + 1
    rows = [[_text(key), _text(value), _text(count)] for (key, value), count in sorted(counts.items())]
    return Table("Versions, machines, weights and data", ["fact", "value", "runs"], rows)
