"""The runs that a page is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from everclip.errors import MissingError
from everclip.reporting.results import labels_of
from everclip.reporting.stored import Odd, Run, listed_folders, read_run
from everclip.runs.folder import numbered


def find_runs(folder: Path) -> tuple[list[Run], list[Odd]]:
    """The runs in a folder, and the run folders that cannot be shown.

    Args:
        folder: a run, outputs, or what `everclip -m` wrote of a sweep.

    Raises:
        MissingError: there is none of either.
    """
    read = [read_run(path) for path in listed_folders(folder)]
    runs, odd = [run for run in read if isinstance(run, Run)], [run for run in read if isinstance(run, Odd)]
    if not read:
        raise MissingError(f"{folder}: no run below it; give a run folder, a folder of a sweep, or paths.outputs")
    known = [run.result for run in runs if run.known]
    labels = iter(labels_of(known) if known else ())
    named = [replace(run, label=next(labels)) if run.known else run for run in runs]
    return sorted(named, key=lambda run: (numbered(run.label), run.facts.get("seed", 0))), odd


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by label."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups
