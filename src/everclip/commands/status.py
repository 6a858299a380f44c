"""The command `everclip-status`: how far the runs of a sweep, or of all sweeps below a folder, are. Needs no torch."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from rich.text import Text

from everclip.commands.arguments import Parser
from everclip.commands.watch import watch
from everclip.errors import ConfigError, EverclipError
from everclip.reporting.console import set_up_logging, tell_error, tell_on_stderr, terminal
from everclip.reporting.plain import plain
from everclip.runs.again import without_once
from everclip.sweeps.progress import STATES, Row, examine, read_sweeps
from everclip.sweeps.sweep import Job, Sweep

COLOURS = dict(zip(STATES, ("green", "cyan", "blue", "yellow", "red", "magenta"), strict=True))


def lines_of(sweep: Sweep, rows: Sequence[Row]) -> list[Text]:
    """Counts, and one line per run."""
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    text = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    title = sweep.path if sweep.path.is_file() else "no sweep"
    lines = [Text(plain(f"{title}: {len(rows)} runs, {text}"))]
    widths = [max(len(row.name) for row in rows), max(len(row.progress) for row in rows)]
    for row in rows:
        line = f"{row.name:<{widths[0]}}  {row.progress:<{widths[1]}}  {row.note}".rstrip()
        own = "".join(f"  {word}" for word in [*(f"#{tag}" for tag in row.tags), row.notes] if word)
        lines.append(Text.assemble((f"{row.state:<11}", COLOURS[row.state]), plain(line), (plain(own), "dim")))
    return lines


def show(found: Iterable[tuple[Sweep, Sequence[Row]]]) -> None:
    """Prints the lines of sweeps."""
    for sweep, rows in found:
        for line in lines_of(sweep, rows):
            terminal.print(line)


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
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=5.0,
        metavar="SECONDS",
        help="show it anew so often (default: 5), and what has changed, until nothing runs or waits, or Ctrl-C",
    )
    options = parser.parse_args(arguments)
    if (options.launch or options.trust) and not options.rerun:
        parser.error("--launch and --trust go with --rerun")
    if options.watch and (options.json or options.rerun):
        parser.error("--watch goes without --json and --rerun")
    tell_on_stderr("everclip-status")
    try:
        if options.watch:
            watch(options.place, options.watch, lines_of)
            return
        found = [(sweep, examine(sweep)) for sweep in read_sweeps(options.place)]
        if options.json:
            terminal.print_json(json.dumps([asdict(row) for _, rows in found for row in rows]), ensure_ascii=True)
        elif options.rerun:
            wanted = ("failed", "preempted", "missing") if options.rerun == "left" else (options.rerun,)
            chosen = partial(rerun, wanted=wanted, launch=options.launch, trust=options.trust)
            sys.exit(max((chosen(sweep, rows) for sweep, rows in found), default=0))
        else:
            show(found)
    except EverclipError as error:
        tell_error("everclip-status", error)
        sys.exit(error.exit_code)


def _seconds(word: str) -> float:
    with suppress(ValueError):
        if (seconds := float(word)) > 0:
            return seconds
    raise ArgumentTypeError(f"{word} is no number of seconds; a place stands before --watch")


def rerun(sweep: Sweep, rows: Sequence[Row], wanted: Sequence[str], *, launch: bool, trust: bool) -> int:
    """Prints the commands of the runs in given states, or starts them; returns the worst exit code.

    Raises:
        ConfigError: one to start may do more than run methods of everclip, and is not trusted.
    """
    chosen = [index for index, row in enumerate(rows) if row.state in wanted]
    for index in chosen:
        sweep.jobs[index] = replace(sweep.jobs[index], words=without_once(sweep.jobs[index].words))
    if launch:
        from everclip.sweeps.launchers import LocalRuns

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
