"""The command `everclip-status`: how far the runs of a sweep, or of all sweeps below a folder, are. Needs no torch."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from everclip.commands.arguments import Parser
from everclip.errors import ConfigError, EverclipError, MissingError
from everclip.reporting.console import set_up_logging, tell_error, tell_on_stderr, terminal
from everclip.reporting.plain import duration, plain
from everclip.reporting.stored import run_folders
from everclip.runs import again, lock
from everclip.runs.again import without_once
from everclip.runs.folder import RunFolder
from everclip.sweeps.launchers import LocalRuns
from everclip.sweeps.slurm import log_path, queued
from everclip.sweeps.sweep import Job, Sweep

log = logging.getLogger("everclip")
STATES = ("finished", "running", "queued", "preempted", "failed", "missing")
COLOURS = dict(zip(STATES, ("green", "cyan", "blue", "yellow", "red", "magenta"), strict=True))


@dataclass
class Row:
    """One run.

    Attributes:
        job: what the sweep says of it.
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
    if place.is_file():
        return [Sweep.read(place)]
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
    for path in run_folders(place.absolute()):
        if str(path) not in known:
            facts = RunFolder(path).read_run()
            if facts:
                alone.append(Job(str(path), shlex.split(again.command(path, facts) or "")[1:]))
            else:
                log.warning("left out: %s: run.json is missing or damaged", path)
    return [*sweeps, Sweep(place.absolute(), alone, os.getcwd())] if alone else sweeps


def examine(sweep: Sweep) -> list[Row]:
    """How far each run of a sweep is, in the sweep's order."""
    waiting = queued(sweep)
    rows: list[Row] = []
    records: dict[int, list[dict[str, Any]]] = {}
    seconds: dict[str, list[list[float]]] = {}  # of finished runs, by their digest
    for index, job in enumerate(sweep.jobs):
        folder = RunFolder(Path(job.folder))
        run, records[index] = folder.read_run(), folder.read_sessions()
        output = log_path(sweep, index)
        row = Row(job, _state(run, job, waiting.get(index), output), len(records[index]), run.get("sessions"))
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


def _state(run: Mapping[str, Any], job: Job, in_queue: str | None, output: Path) -> str:
    state = run.get("state")
    if state == "finished":
        return "finished"
    if in_queue not in (None, "COMPLETING"):
        return "queued" if in_queue == "PENDING" else "running"
    if state == "running":
        return "running" if _holds(Path(job.folder)) else "preempted"
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
        words = [row.job.slurm or ""]
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


def show(sweep: Sweep, rows: Sequence[Row]) -> None:
    """Prints counts and one line per run."""
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    text = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    title = sweep.path if sweep.path.is_file() else "no sweep"
    terminal.print(f"{title}: {len(rows)} runs, {text}")
    widths = [max(len(row.job.name) for row in rows), max(len(row.progress) for row in rows)]
    for row in rows:
        line = f"{row.job.name:<{widths[0]}}  {row.progress:<{widths[1]}}  {row.note}".rstrip()
        own = "  ".join(filter(None, [*(f"#{tag}" for tag in row.tags), row.notes]))
        terminal.print(
            Text.assemble(
                (f"{row.state:<11}", COLOURS[row.state]), plain(line), (plain(f"  {own}"), "dim") if own else ""
            )
        )


def command(job: Job) -> str:
    """The command of a run, for a shell."""
    return shlex.join(["everclip", *job.words])


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `everclip-status`."""
    parser = Parser(prog="everclip-status", description="How far the runs of a sweep are.")
    parser.add_argument("place", nargs="?", default="outputs", type=Path, help="outputs/sweeps/<id>.json, or outputs")
    parser.add_argument("--rerun", choices=["failed", "preempted", "missing", "left"], help="print their commands")
    parser.add_argument("--launch", action="store_true", help="with --rerun: start them here, one after the other")
    parser.add_argument("--trust", action="store_true", help="with --launch: also commands that name code or places")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse_args(arguments)
    tell_on_stderr("everclip-status")
    try:
        sweeps = read_sweeps(options.place)
        found = [(sweep, examine(sweep)) for sweep in sweeps]
        if options.json:
            terminal.print_json(json.dumps([asdict(row) for _, rows in found for row in rows]), ensure_ascii=True)
        elif options.rerun:
            wanted = ("failed", "preempted", "missing") if options.rerun == "left" else (options.rerun,)
            chosen = partial(rerun, wanted=wanted, launch=options.launch, trust=options.trust)
            sys.exit(max((chosen(sweep, rows) for sweep, rows in found), default=0))
        else:
            for sweep, rows in found:
                show(sweep, rows)
    except EverclipError as error:
        tell_error("everclip-status", error)
        sys.exit(error.exit_code)


def rerun(sweep: Sweep, rows: Sequence[Row], wanted: Sequence[str], *, launch: bool, trust: bool) -> int:
    """Prints the commands of the runs in given states, or starts them; returns the worst exit code.

    Raises:
        ConfigError: one to start may do more than run methods of everclip, and is not trusted.
    """
    chosen = [index for index, row in enumerate(rows) if row.state in wanted]
    for index in chosen:
        sweep.jobs[index] = replace(sweep.jobs[index], words=without_once(sweep.jobs[index].words))
    if launch:
        if not trust:
            _refuse_code(sweep, chosen)
        set_up_logging("info")
        return max(LocalRuns(1).run(sweep, chosen, note=sweep.path.is_file()).values(), default=0)
    for index in chosen:
        terminal.print(command(sweep.jobs[index]))
    return 0


def _refuse_code(sweep: Sweep, chosen: Sequence[int]) -> None:
    """Refuses commands which a folder received from somebody else could use to run code of theirs here.

    Raises:
        ConfigError: names the first.
    """
    reason = "was written for the folder " + sweep.cwd if os.path.realpath(sweep.cwd) != os.getcwd() else ""
    for index in chosen:
        job = sweep.jobs[index]
        inside = Path(job.folder).resolve().is_relative_to(sweep.path.parents[1].resolve())
        words = [word for word in job.words if not _is_harmless(word, job.folder, sweep.path.parents[1])]
        if reason := reason or ("" if inside else f"writes to {job.folder}") or (f"says {words[0]}" if words else ""):
            raise ConfigError(
                f"{sweep.path}: a command {reason}, which may run code; --rerun alone prints the commands, and if you "
                "trust who wrote them, add --trust"
            )


def _is_harmless(word: str, folder: str, outputs: Path) -> bool:
    """Whether a word of a command chooses or sets something of everclip, and can name neither code nor places."""
    key, equals, value = word.partition("=")
    if re.fullmatch(r"\+{0,2}[a-z]\w*([./@][\w.]+)*", key) is None or not equals:
        return False
    if place := {"hydra.run.dir": folder, "paths.outputs": str(outputs.absolute())}.get(key):
        return os.path.abspath(value.strip("'")) == place
    group, path = re.split(r"[./@]", key.lstrip("+"))[0], re.search(r"(^|[\['\",=])/|\.\.", value)
    option = "." not in key  # chooses a file of a group, which must be one of everclip's
    return (
        group not in ("hydra", "paths", "trust", "eval")
        and not (option and path)
        and "_target_" not in word
        and "${" not in value
    )


if __name__ == "__main__":
    main()
