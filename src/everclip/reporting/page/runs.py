"""The runs that a page is about."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from everclip.errors import MissingError
from everclip.reporting.results import Result, labels_of
from everclip.runs.folder import RunFolder, numbered

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Run:
    """What a run folder says, finished or not."""

    folder: RunFolder
    facts: dict[str, Any]
    summary: dict[str, Any]
    label: str = ""

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return self.facts.get("state") == "finished" and bool(self.summary) and bool(self.records)

    @property
    def result(self) -> Result:
        """The run as tables know it."""
        return Result(self.folder.path, self.facts, self.summary)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Its finished sessions."""
        return self.folder.read_sessions()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its configuration by dotted key; empty if the run stopped before it was written."""
        path = self.folder.path / "config.yaml"
        return dict(flat(yaml.load(path.read_text(), LOADER))) if path.is_file() else {}


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings by dotted key."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def find_runs(folder: Path) -> list[Run]:
    """The runs in a folder: a run, outputs, or what `everclip -m` wrote of a sweep.

    Raises:
        MissingError: there is none.
    """
    listed = folder / "runs.txt"
    if listed.is_file():
        paths = [Path(os.path.normpath(folder / line)) for line in listed.read_text().splitlines()]
    else:
        paths = []
        for place, folders, files in os.walk(folder):
            if "run.json" in files:
                paths.append(Path(place))
                folders.clear()
    read = [Run(run, run.read_run(), run.read_summary()) for run in map(RunFolder, sorted(paths))]
    runs = [run for run in read if run.facts]
    if not runs:
        raise MissingError(f"{folder}: no run below it; give a run folder, a folder of a sweep, or paths.outputs")
    known = [run for run in runs if "digest" in run.facts]
    labels = iter(labels_of([run.result for run in known])) if known else iter(())
    named = [Run(run.folder, run.facts, run.summary, next(labels) if "digest" in run.facts else "?") for run in runs]
    return sorted(named, key=lambda run: (numbered(run.label), run.facts.get("seed", 0)))


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by label."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups
