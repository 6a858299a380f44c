"""Runs as their folders tell of them, finished or not; a folder that cannot be shown is odd, and says why."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from everclip.errors import ConfigError, DataError
from everclip.reporting.results import Result
from everclip.runs.folder import RunFolder, numbered
from everclip.runs.scores import confusion_of, protocol_of, table_of
from everclip.runs.shapes import FIGURES
from everclip.storage import YAML, check_yaml

log = logging.getLogger("everclip")
COSTS = ("trainable_parameters", "total_parameters", "train_seconds", "eval_seconds", "peak_memory_mb")
MACHINE = ("device", "devices", "precision")
SILENT = ("paths.", "logger.", "log_level", "check", "tags", "notes")  # settings that say nothing about a result
FACTS = ("method", "backbone", "sequence", "seed", "digest", "overrides")


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        folder: of the run.
        facts: of its `run.json`.
        summary: empty before it is finished.
        label: what tells it apart from the runs beside it.
    """

    folder: RunFolder
    facts: dict[str, Any]
    summary: dict[str, Any]
    label: str = "?"

    @property
    def known(self) -> bool:
        """Whether it says what it is a run of; one that was refused early does not."""
        return all(fact in self.facts for fact in FACTS)

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return self.facts.get("state") == "finished"

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
        if not path.is_file():
            return {}
        try:
            check_yaml(path)
            settings = yaml.load(path.read_text(encoding="utf-8"), YAML)
            return dict(flat(settings)) if isinstance(settings, dict) else {}
        except (OSError, ValueError, yaml.YAMLError, ConfigError) as error:
            log.warning("%s cannot be read and is left out: %s", path, " ".join(str(error).split()))
            return {}


@dataclass(frozen=True)
class Odd:
    """A run folder that cannot be shown: what is known of it, and why."""

    run: Run
    reason: str


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings by dotted key."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def run_folders(root: Path) -> Iterator[Path]:
    """The run folders below a folder, itself included, in order; links are not followed."""

    def leave_out(error: OSError) -> None:
        log.warning("%s cannot be read and is left out: %s", error.filename, error.strerror)

    for place, folders, files in os.walk(root, onerror=leave_out if root.is_dir() else None):
        folders.sort(key=numbered)
        if "run.json" in files or "sessions.jsonl" in files:
            yield Path(place)
            folders.clear()


def listed_folders(folder: Path) -> list[Path]:
    """The run folders that what `everclip -m` wrote of a sweep lists, or else those below a folder."""
    listed = folder / "runs.txt"
    if not listed.is_file():
        return list(run_folders(folder))
    lines = listed.read_text(errors="surrogateescape").replace("\0", "").splitlines()
    return [path for line in lines if line and (path := Path(os.path.normpath(folder / line))).is_dir()]


def read_run(path: Path, *, sessions: bool = True) -> Run | Odd:
    """What a run folder says.

    Args:
        path: of the folder.
        sessions: whether all that follows from the records of its sessions will be shown too.
    """
    folder = RunFolder(path)
    run = Run(folder, folder.read_run(), folder.read_summary())
    try:
        _check(run)
        if sessions and run.finished:
            _check_sessions(run)
    except (ConfigError, DataError) as error:
        return Odd(run, str(error))
    return run


def _check(run: Run) -> None:
    """Compares what run and summary say with what is shown of them.

    Raises:
        ConfigError: of a protocol that this version does not know.
        DataError: what is missing.
    """
    if not run.facts:
        raise DataError("run.json is missing or damaged")
    protocol = protocol_of(run.facts, run.summary)
    if run.finished:
        if missing := [fact for fact in FACTS if fact not in run.facts]:
            raise DataError(f"run.json lacks {', '.join(missing)}")
        if not run.summary:
            raise DataError("finished, but summary.json is missing or damaged")
        if not run.summary.get(f"{protocol.entry}_per_session"):
            raise DataError(f"summary.json lacks {protocol.entry}_per_session")


def _check_sessions(run: Run) -> None:
    """Derives from the records what is shown of them.

    Raises:
        DataError: they are not those of the summary, or do not fit together.
    """
    protocol = run.result.protocol
    scores = (f"average_{protocol.entry}", f"last_{protocol.entry}")
    if missing := [key for key in (*scores, *COSTS) if run.summary.get(key) is None]:
        raise DataError(f"summary.json lacks {', '.join(missing)}")
    if missing := [key for key in MACHINE if run.facts.get(key) is None]:
        raise DataError(f"run.json lacks {', '.join(missing)}")
    if len(run.records) != len(run.result.curve):
        raise DataError(
            f"sessions.jsonl is missing or damaged: {len(run.records)} of the {len(run.result.curve)} sessions that "
            "summary.json tells of"
        )
    keys = [*(measure.key for measure in protocol.line), *(f"{part}_{protocol.entry}" for part in ("base", "novel"))]
    for record in run.records:
        problem = FIGURES({key: record.get(key) for key in keys})
        for key in (protocol.entry, "eval_images_per_second"):
            problem = problem or ("" if record.get(key) is not None else f"no {key}")
        if problem:
            raise DataError(f"sessions.jsonl: session {record['index']}: {problem}")
    try:
        table_of(run.records)
        confusion_of(run.records)
    except ValueError as error:
        raise DataError(f"sessions.jsonl: {error}") from error
