"""Runs as a list: one line each, sorted by what they are or what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from everclip.config.names import settings_of
from everclip.errors import ConfigError, MissingError, nearest
from everclip.metrics.protocol import Protocol
from everclip.reporting.grid import Cell, Column, Grid, Line
from everclip.reporting.stored import Odd, listed_folders, read_run
from everclip.runs.folder import numbered

TEXTS = ("method", "sequence", "backbone", "settings", "state", "folder")  # sorted upwards
LISTED = (*TEXTS[:4], "seed", "state", "sessions", "average", "last", "started")
WIDTH = 60  # signs of settings that a list has room for


@dataclass(frozen=True)
class Listed:
    """One run.

    Attributes:
        facts: what lists show of it, by name.
        summary: of a finished run.
        protocol: how it is summed up, None where that is not known.
    """

    facts: dict[str, Any]
    summary: dict[str, Any]
    protocol: Protocol | None


def list_runs(root: Path, tag: str | None = None) -> list[Listed]:
    """The runs below a folder, of a tag if one is given.

    Raises:
        MissingError: no such folder.
    """
    if not root.is_dir():
        raise MissingError(f"{root}: no such folder; give a folder of outputs")
    found = [_listed(path) for path in listed_folders(root)]
    return [run for run in found if tag is None or tag in run.facts["tags"]]


def _listed(path: Path) -> Listed:
    run = read_run(path, sessions=False)
    odd, run = (run.reason, run.run) if isinstance(run, Odd) else ("", run)
    told = run.facts
    protocol = None if odd else run.result.protocol
    scores = {name: run.summary.get(f"{name}_{protocol.entry}") for name in ("average", "last")} if protocol else {}
    attempts = told.get("attempts") or [{}]
    facts = {
        **{name: told.get(name) for name in ("method", "sequence", "backbone", "seed", "state")},
        "settings": " ".join(settings_of(told.get("overrides", ()))),
        "sessions": run.summary.get("sessions", len(run.records)),
        **scores,
        "started": attempts[0].get("start"),
        "tags": told.get("tags", []),
        "notes": told.get("notes", ""),
        "folder": str(path),
    }
    return Listed(facts | ({"state": "damaged", "notes": odd} if odd else {}), run.summary, protocol)


def sorted_runs(runs: Sequence[Listed], key: str) -> list[Listed]:
    """The runs by a fact or a figure of their summary, the latest or highest first; lowest where low is better.

    Raises:
        ConfigError: no run has it.
    """

    def value(run: Listed) -> Any:
        found = run.facts.get(key, run.summary.get(key))
        return found if isinstance(found, str | int | float) else None

    known = [run for run in runs if value(run) is not None]
    if runs and not known:
        names = [*LISTED, *dict.fromkeys(name for run in runs for name in run.summary)]
        raise ConfigError(
            f"--sort {key}: no run has it; there are: {', '.join(LISTED)}, or what summary.json has"
            f"{nearest(key, names)}"
        )
    if key in TEXTS or key == "seed":
        known.sort(key=lambda run: numbered(value(run)))
    else:
        low = any(_better(run.protocol, key) == "low" for run in known)
        known.sort(key=value, reverse=not low)
    return known + [run for run in runs if value(run) is None]


def _better(protocol: Protocol | None, key: str) -> str:
    measures = (*protocol.columns, *protocol.details) if protocol else ()
    return next((measure.better for measure in measures if measure.key == key), "")


def runs_grid(runs: Iterable[Listed], key: str) -> Grid:
    """A line per run; columns that no run fills are left out, what it is sorted by is shown."""
    lines, names = [], [*LISTED, *([key] if key not in (*LISTED, "folder") else []), "tags", "notes", "folder"]
    for run in runs:
        told = run.facts | {"tags": ", ".join(run.facts["tags"]), key: run.facts.get(key, run.summary.get(key))}
        told["settings"] = shorten(told["settings"], WIDTH, placeholder=" ...")
        lines.append(Line([Cell(told.get(name) if told.get(name) != "" else None) for name in names]))
    columns = [Column(name, numeric=name not in (*TEXTS, "started", "tags", "notes")) for name in names]
    filled = [index for index in range(len(names)) if any(line.cells[index].value is not None for line in lines)]
    return Grid("Runs", columns, lines).only(filled)
