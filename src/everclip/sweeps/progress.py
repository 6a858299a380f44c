"""How far the runs of a sweep are, or those below a folder: by their folders, their sweep's list, and the queue."""

from __future__ import annotations

import logging
import os
import shlex
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everclip.config.names import settings_of
from everclip.errors import MissingError
from everclip.reporting.plain import duration
from everclip.reporting.stored import listed_folders
from everclip.runs import again, lock
from everclip.runs.folder import RunFolder
from everclip.sweeps.slurm import log_path, queued
from everclip.sweeps.sweep import IN_FLIGHT, WAITING, Job, Sweep

log = logging.getLogger("everclip")
STATES = ("finished", "running", "queued", "preempted", "failed", "missing")
IN_QUEUE = {WAITING: "PENDING", IN_FLIGHT: "RUNNING"}  # what a queue says of jobs whose launcher goes on


@dataclass
class Row:
    """One run.

    Attributes:
        job: what the sweep says of it.
        name: what tells it apart from the others of its sweep.
        state: one of `STATES`.
        sessions: finished ones.
        of: all of them, None if that is not known yet.
        eta: seconds until it ends, where that can be told.
        note: last error, place, job id.
        tags: that its commands gave it.
        notes: likewise.
    """

    job: Job
    state: str
    name: str = ""
    sessions: int = 0
    of: int | None = None
    eta: float | None = None
    note: str = ""
    tags: Sequence[str] = ()
    notes: str = ""

    @property
    def progress(self) -> str:
        """`session 4/9`, with what is left of a run that goes on."""
        if self.state == "missing" or (self.state == "queued" and not self.sessions):
            return ""
        number = self.sessions if self.of is None else min(self.sessions, self.of - 1)
        total = "" if self.of is None else f"/{self.of - 1}"
        return f"session {number}{total}" + ("" if self.eta is None else f", {duration(self.eta)} left")


def read_sweeps(place: Path) -> list[Sweep]:
    """The sweep a file lists; or below a folder of outputs all of its sweeps, and what runs there beside them.

    Raises:
        MissingError: nothing of the kind.
    """
    listed = place.parent / f"{place.name}.json"
    if place.is_file() or (place.parent.name == "sweeps" and listed.is_file()):
        return [Sweep.read(place if place.is_file() else listed)]
    if not place.is_dir():
        raise MissingError(f"{place}: no such folder; give a folder of outputs or a sweep's file in its sweeps/")
    sweeps = []
    for path in sorted((place / "sweeps").glob("*.json")):
        try:
            sweeps.append(Sweep.read(path))
        except MissingError as error:
            log.warning("left out: %s", error)
    known = {job.folder for sweep in sweeps for job in sweep.jobs}
    alone = []
    for path in listed_folders(place.absolute()):
        if str(path) not in known:
            facts = RunFolder(path).read_run()
            if facts:
                alone.append(Job(str(path), shlex.split(again.command(path, facts) or "")[1:]))
            else:
                log.warning("left out: %s: run.json is missing or damaged", path)
    return [*sweeps, Sweep(place.absolute(), alone, os.getcwd())] if alone else sweeps


def examine(sweep: Sweep) -> list[Row]:
    """How far each run of a sweep is, in the sweep's order."""
    waiting, names = queued(sweep), _names(sweep.jobs)
    if not lock.is_gone(sweep.process):
        waiting |= {index: IN_QUEUE[job.state] for index, job in enumerate(sweep.jobs) if job.state in IN_QUEUE}
    rows: list[Row] = []
    records: dict[int, list[dict[str, Any]]] = {}
    seconds: dict[str, list[list[float]]] = {}  # of finished runs, by their digest
    for index, job in enumerate(sweep.jobs):
        folder = RunFolder(Path(job.folder))
        run, records[index] = folder.read_run(), folder.read_sessions()
        output = log_path(sweep, index)
        state = _state(run, job, waiting.get(index), output)
        row = Row(job, state, names[index], len(records[index]), run.get("sessions"))
        row.note, row.tags, row.notes = _note(row, run, output), run.get("tags", ()), run.get("notes", "")
        if row.state == "finished":
            row.of = row.sessions
            seconds.setdefault(folder.path.parent.name, []).append(_seconds(records[index]))
        rows.append(row)
    for index, row in enumerate(rows):
        if row.state == "running":
            siblings = seconds.get(Path(row.job.folder).parent.name, [])
            row.of = row.of or max(map(len, siblings), default=None)
            row.eta = _eta(row, _seconds(records[index]), siblings)
    return rows


def _names(jobs: Sequence[Job]) -> list[str]:
    """The names of jobs without the settings that all of them share."""
    settings = [settings_of(job.words) for job in jobs]
    shared = set.intersection(*map(set, settings)) if len(jobs) > 1 else set()
    kept = [",".join(word for word in own if word not in shared) for own in settings]
    parts = [(job.parts[0], job.parts[1], own, job.parts[3]) for job, own in zip(jobs, kept, strict=True)]
    return ["-".join(filter(None, words)) for words in parts]


def _state(run: Mapping[str, Any], job: Job, in_queue: str | None, output: Path) -> str:
    state = run.get("state")
    if state == "finished":
        return "finished"
    if in_queue not in (None, "COMPLETING"):
        return "queued" if in_queue == "PENDING" else "running"
    if state == "running":
        return "running" if _holds(Path(job.folder)) else "preempted"
    if state is None and job.state == IN_FLIGHT:
        return "preempted"  # with its sweep, before it wrote anything
    if state is None and (job.error or output.is_file() or os.path.lexists(Path(job.folder) / "run.json")):
        return "failed"  # it began, and ended before it could write anything, or what it wrote is damaged
    return str(state or "missing")


def _holds(folder: Path) -> bool:
    """Whether a process works in a run folder; of another machine's only the lock, or SLURM, can tell."""
    return not lock.is_gone(lock.read(folder / "lock.json"))


def _note(row: Row, run: Mapping[str, Any], output: Path) -> str:
    attempt = (run.get("attempts") or [{}])[-1]
    if row.state == "running":
        words = [
            f"on {attempt.get('host')} since {attempt.get('start')}" if attempt else "starting",
            row.job.slurm or "",
        ]
    elif row.state == "finished":
        words = []
    elif row.state == "queued":
        words = [row.job.slurm or "waits for its turn"]
    elif row.state == "preempted":
        words = [str(attempt.get("reason") or "killed"), "goes on with the same command"]
    else:
        damaged = "" if run or row.state == "missing" else "run.json is damaged"
        words = [str(attempt.get("reason") or row.job.error or _last_line(output) or damaged)]
    return ", ".join(word for word in words if word)


def _last_line(output: Path) -> str:
    if not output.is_file():
        return ""
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), f"no word in {output}")


def _seconds(records: Iterable[Mapping[str, Any]]) -> list[float]:
    return [record.get("train_seconds", 0.0) + record.get("eval_seconds", 0.0) for record in records]


def _eta(row: Row, own: Sequence[float], siblings: Sequence[Sequence[float]]) -> float | None:
    """Seconds left: by finished runs that differ in the seed alone, else by the run's own sessions after the first."""
    if row.of is None:
        return None
    alike = [other for other in siblings if len(other) == row.of]
    if alike:
        expected = [statistics.median(other[session] for other in alike) for session in range(row.sessions, row.of)]
    elif len(own) > 1:
        expected = [statistics.mean(own[1:])] * (row.of - row.sessions)
    else:
        return None
    marks = [path for path in map(Path(row.job.folder).joinpath, ("sessions.jsonl", "lock.json")) if path.is_file()]
    begun = max((path.stat().st_mtime for path in marks), default=time.time())
    return sum(expected) - min(time.time() - begun, sum(expected[:1]))
