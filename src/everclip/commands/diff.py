"""The command `everclip-diff`: settings, origin and results of two runs or groups of runs. Needs no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import Any

from everclip.commands.arguments import Parser
from everclip.errors import EverclipError, MissingError
from everclip.reporting.comparison import Compared, Comparison, Section, compare_runs
from everclip.reporting.console import tell_error, tell_on_stderr, terminal
from everclip.reporting.formats import console
from everclip.reporting.grid import Cell, Column, Grid, Line, over_runs
from everclip.reporting.plain import plain
from everclip.reporting.stored import Odd, Run, listed_folders, read_run
from everclip.sweeps.sweep import Sweep

LONGEST = 60  # signs of a value on the console
CLASSES = 10  # on the console


def read_group(place: str) -> tuple[list[Run], list[tuple[Path, str]]]:
    """The runs of a run folder, below a folder, of a sweep's list, or of all that a pattern matches; what is left out.

    Raises:
        MissingError: there is none that tells what it is a run of, or a file that lists no sweep.
    """
    found = [Path(place)] if Path(place).exists() else [Path(match) for match in sorted(glob(place, recursive=True))]
    folders = dict.fromkeys(folder.absolute() for path in found for folder in _folders(path))
    runs, left_out = [], []
    for folder in folders:
        run = read_run(folder)
        if isinstance(run, Odd):
            left_out.append((folder, run.reason))
        elif not run.known:
            left_out.append((folder, "it ended before it said what it is a run of"))
        else:
            runs.append(run)
    if not runs:
        why = f"; left out: {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise MissingError(
            f"{place}: no run there; give a run folder, a folder above several, or a pattern in quotes{why}"
        )
    return runs, left_out


def _folders(path: Path) -> list[Path]:
    return [Path(job.folder) for job in Sweep.read(path).jobs] if path.is_file() else listed_folders(path)


def show(comparison: Comparison, confidence: float) -> None:
    """Prints what differs as tables."""
    for title, values in (("Settings that differ", comparison.settings), ("Made from", comparison.origin)):
        rows = [[Cell(name), *(Cell(_told(own)) for own in pair)] for name, pair in values.items()]
        if rows:
            _print(title, [Column("setting" if title[0] == "S" else "fact", False), _text("A"), _text("B")], rows)
    if not comparison.settings:
        terminal.print("No setting differs that can change a result.", style="bold")
    if comparison.same:
        terminal.print(f"Alike: {', '.join(comparison.same)}")
    for section in comparison.sections:
        _show_section(section, confidence)
    if not comparison.sections:
        terminal.print(
            "No run of A has one of its seed and settings in B: there are no pairs to compare.", style="yellow"
        )
    for run in comparison.unpaired:
        terminal.print(f"without a counterpart: {run.folder.path}", style="yellow")


def _show_section(section: Section, confidence: float) -> None:
    seeds = ", ".join(dict.fromkeys(str(a.facts["seed"]) for a, _ in section.pairs))
    same = all(a.facts["seed"] == b.facts["seed"] for a, b in section.pairs)
    pairs = f"{len(section.pairs)} pair{'s' if len(section.pairs) > 1 else ''}"
    terminal.print(f"\n{section.name or 'Results'}: {pairs}{f', seed {seeds}' if same else ''}", style="bold cyan")
    if section.other_data:
        terminal.print("A and B were judged on other data, which is part of all differences below", style="yellow")
    tests = len(section.pairs) > 1
    share = f"{100 * confidence:g} %"
    heads = [_text("B - A"), *([_text(f"{share} interval"), _text("p")] if tests else [])]
    for title, head, lines in (
        (f"After each session, {section.title}", "session", section.curve),
        ("In all", "measure", section.metrics),
        ("By task, after the last of these sessions", "task", section.tasks),
        ("By class, the largest differences", "class", section.classes[:CLASSES]),
    ):
        if lines:
            columns = [Column(head, False), _text("A"), _text("B"), *heads]
            _print(title, columns, [_line(line, tests) for line in lines])
    if tests:
        terminal.print(
            f"± standard deviation over runs; {share} interval and p (two-sided) of a paired t-test for each line "
            "by itself, none where differences do not vary",
            style="dim",
        )


def _line(line: Compared, tests: bool) -> list[Cell]:
    digits, paired = line.measure.digits, line.paired
    column = Column("", better=" ", digits=digits)
    cells = [column.text(over_runs(values)) for values in (line.first, line.second)]
    cells.append(column.text(Cell(paired.difference, signed=True)))
    if tests:
        known = paired.low is not None and paired.high is not None
        cells.append(f"{paired.low:+,.{digits}f} to {paired.high:+,.{digits}f}" if known else "")
        cells.append("" if paired.p is None else f"{paired.p:.4f}" if paired.p >= 1e-4 else "<0.0001")
    return [Cell(line.measure.heading), *map(Cell, cells)]


def _text(heading: str) -> Column:
    return Column(heading, numeric=heading not in ("A", "B"))


def _print(title: str, columns: list[Column], rows: Iterable[list[Cell]]) -> None:
    terminal.print(title, style="bold")
    terminal.print(console(Grid(title, columns, [Line(row) for row in rows]), escaped=False))


def _told(values: Sequence[Any]) -> str:
    texts = ["–" if value is None else plain(str(value)) for value in values]
    text = ", ".join([*texts[:4], *([f"{len(texts) - 4} more"] if len(texts) > 4 else [])])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All of it for other programs."""

    def sides(values: dict[str, tuple[list[Any], list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        return {name: {"a": a, "b": b} for name, (a, b) in values.items()}

    def lines(compared: Sequence[Compared], key: str) -> list[dict[str, Any]]:
        return [
            {key: line.measure.key if key == "metric" else line.measure.heading, "a": line.first, "b": line.second}
            | asdict(line.paired)
            for line in compared
        ]

    return {
        "settings": sides(comparison.settings),
        "origin": sides(comparison.origin),
        "same": comparison.same,
        "results": [
            {
                "name": section.name,
                "entry": section.title,
                "other_data": section.other_data,
                "pairs": [
                    {"a": str(a.folder.path), "b": str(b.folder.path), "seeds": [a.facts["seed"], b.facts["seed"]]}
                    for a, b in section.pairs
                ],
                "sessions": lines(section.curve, "session"),
                "metrics": lines(section.metrics, "metric"),
                "tasks": lines(section.tasks, "task"),
                "classes": lines(section.classes, "class"),
            }
            for section in comparison.sections
        ],
        "unpaired": [str(run.folder.path) for run in comparison.unpaired],
    }


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `everclip-diff`."""
    parser = Parser(
        prog="everclip-diff",
        description="What tells two runs or groups of runs apart: settings, versions, weights and data, then results, "
        "paired by seed and by whatever else varies within a group.",
    )
    parser.add_argument(
        "a", metavar="A", help="a run folder, a folder above several, a sweep's file, or a pattern in quotes"
    )
    parser.add_argument("b", metavar="B", help="what is compared with it")
    parser.add_argument("--confidence", type=float, default=95.0, metavar="%", help="of intervals (default: 95)")
    parser.add_argument("--json", action="store_true", help="machine-readable, with the value of every run")
    options = parser.parse_args(arguments)
    if not 0 < options.confidence < 100:
        parser.error("--confidence: must be between 0 and 100")
    tell_on_stderr("everclip-diff")
    try:
        groups = [read_group(options.a), read_group(options.b)]
        comparison = compare_runs(groups[0][0], groups[1][0], options.confidence / 100)
    except EverclipError as error:
        tell_error("everclip-diff", error)
        sys.exit(error.exit_code)
    if options.json:
        terminal.print_json(json.dumps(as_json(comparison)), ensure_ascii=True)
        return
    for name, place, (runs, left_out) in zip("AB", (options.a, options.b), groups, strict=True):
        finished = sum(run.finished for run in runs)
        told = "" if finished == len(runs) else f", {finished} finished"
        terminal.print(f"{name}: {place}: {len(runs)} run{'s' if len(runs) > 1 else ''}{told}")
        for folder, reason in left_out:
            terminal.print(f"   left out: {folder}: {reason}", style="yellow")
    show(comparison, options.confidence / 100)


if __name__ == "__main__":
    main()
