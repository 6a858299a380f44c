"""The command `everclip-list`: what there is to choose, and the runs that were made of it."""

from __future__ import annotations

import json
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from everclip.commands.arguments import Parser
from everclip.errors import EverclipError, MissingError
from everclip.reporting.console import tell_error, tell_on_stderr, terminal

KINDS = {"methods": "method", "backbones": "backbone", "sequences": "sequence", "tables": "table"}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `everclip-list`."""
    parser = Parser(
        prog="everclip-list", description="What there is to choose on the command line, or the runs made so far."
    )
    parser.add_argument(
        "kind", nargs="?", type=_plural, choices=[*KINDS, "runs"], help="only these (default: all there is to choose)"
    )
    parser.add_argument("place", nargs="?", type=Path, help="runs: the folder they lie below (default: outputs)")
    parser.add_argument(
        "--sort",
        metavar="KEY",
        help="runs: last, average, started (default), or any other column or figure of summary.json",
    )
    parser.add_argument("--tag", help="runs: only those with this tag")
    parser.add_argument("--json", action="store_true", help="machine-readable, with all details")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="with what your own configuration files add")
    options = parser.parse_args(arguments)
    if options.kind != "runs" and (options.place or options.sort or options.tag):
        parser.error("a folder, --sort and --tag go with: everclip-list runs")
    sys.path.append(os.getcwd())  # where a user's own method may lie
    try:
        if options.kind == "runs":
            _list_runs(options.place or Path("outputs"), options.sort or "started", options.tag, as_json=options.json)
            return
        found = _found([options.kind] if options.kind else list(KINDS), options.config_dir)
    except EverclipError as error:
        tell_error("everclip-list", error)
        sys.exit(error.exit_code)
    if options.json:
        terminal.print_json(json.dumps(found))
        return
    for kind, entries in found.items():
        terminal.print(kind, style="bold")
        for family, members in groupby(entries, key=lambda entry: entry["family"]):
            if family:
                terminal.print(f"  {family}", style="italic")
            for entry in members:
                _print(entry)


def _list_runs(place: Path, key: str, tag: str | None, *, as_json: bool) -> None:
    from everclip.reporting.formats import console
    from everclip.reporting.run_list import list_runs, runs_grid, sorted_runs

    tell_on_stderr("everclip-list")
    runs = sorted_runs(list_runs(place, tag), key)
    if as_json:
        terminal.print_json(json.dumps([run.facts | {"summary": run.summary} for run in runs]), ensure_ascii=True)
    elif runs:
        terminal.print(console(runs_grid(runs, key), escaped=False))
    else:
        terminal.print(f"no run below {place}{f' with the tag {tag}' if tag else ''}")


def _found(kinds: list[str], own: Path | None) -> dict[str, list[dict[str, Any]]]:
    """What there is of each kind, by families, those without one last."""
    from everclip.config.catalogue import describe, option_names  # which a list of runs does not wait for

    if own and not own.is_dir():
        raise MissingError(f"--config-dir {own}: no such folder")
    found = {kind: [describe(KINDS[kind], name, own) for name in option_names(KINDS[kind], own)] for kind in kinds}
    return {
        kind: sorted(entries, key=lambda entry: (not entry["family"], entry["family"]))
        for kind, entries in found.items()
    }


def _print(entry: dict[str, Any]) -> None:
    terminal.print(f"  {entry['name']:<18} {entry['summary']}")
    given = " ".join(f"{key}={value}" for key, value in entry["options"].items())
    for title, text in (("options", given), ("source", entry["source"]), ("needs", entry["needs"])):
        if text:
            terminal.print(f"  {'':<18} {title}: {text}", style="dim")


def _plural(word: str) -> str:
    """`methods` for `method`, as the group is called on the command line."""
    return f"{word.removesuffix('s')}s"


if __name__ == "__main__":
    main()
