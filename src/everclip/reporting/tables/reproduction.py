"""Writes `REPRODUCTION.md`: every row of ours of every table, beside what was published."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from everclip import storage
from everclip.config.catalogue import describe, option_names
from everclip.reporting.formats import MINUS, markdown_code, markdown_text
from everclip.reporting.grid import Grid, Line
from everclip.reporting.tables.definition import read_definition
from everclip.reporting.tables.experiments import OUTPUTS, Runs, commands, scan
from everclip.reporting.tables.table import Entry, commit_of, make_entries, make_table, seeds_text

HEAD = """# Reproduction

Every experiment of the tables in `conf/table`, written by `make tables` from the run folders in `outputs`. Published
figures have their sources there (`everclip-table NAME` shows them); † was quoted or recalled, not read in its source.
"""


def reproduction(tables: Sequence[str], runs: Runs) -> str:
    """The whole file as Markdown."""
    rows = [["method", "benchmark", "published", "obtained", "seeds", "commit", "reason for a gap"]]
    seen: set[tuple[str, ...]] = set()
    for name in tables:
        definition = read_definition(name)
        grid, entries = make_table(definition, make_entries(definition, (), ()), runs)
        for entry in entries:
            digests = tuple(experiment.digest for _, experiment in entry.experiments)
            if digests and digests not in seen:
                seen.add(digests)
                shown = [
                    line for line in grid.lines if (line.group, line.cells[0].value) == (entry.group, entry.row.name)
                ]
                benchmark = f"{name}, {entry.group}" if entry.group else name
                rows.append([markdown_text(entry.row.name), markdown_text(benchmark), *_facts(entry, shown, grid)])
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([HEAD, head, "|---" * len(rows[0]) + "|", *body]) + "\n"


def _facts(entry: Entry, lines: Sequence[Line], grid: Grid) -> list[str]:
    """Published, obtained, seeds, commit, reason."""
    kinds = {grid.cell(line, "figures").value: line for line in lines}
    published, obtained = (_figures(kinds.get(kind), grid) for kind in ("published", "obtained"))
    commits = markdown_text(", ".join(dict.fromkeys(commit_of(result) for result in entry.results)))
    made = str(grid.cell(kinds["obtained"], "seeds").value)
    return [published, obtained, made, commits, "; ".join(_reasons(entry, "difference" in kinds))]


def _figures(line: Line | None, grid: Grid) -> str:
    """The figures of a line that are the best of something, but for single sessions, tasks and parts."""
    pairs = [] if line is None else list(zip(grid.columns, line.cells, strict=True))
    known = [(column, cell) for column, cell in pairs if column.better and "/" not in column.name]
    shown = [(column, cell) for column, cell in known if cell.value is not None]
    return ", ".join(f"{column.heading} {column.text(cell).replace('-', MINUS)}" for column, cell in shown)


def _reasons(entry: Entry, compared: bool) -> Iterator[str]:
    """What is missing and what it takes; else why obtained and published differ."""
    for experiments, seeds in entry.lacking():
        what = "not run" if seeds == entry.row.seeds else f"{seeds_text(seeds)} not run"
        choices = [pair for e in experiments for pair in (("backbone", e.names[1]), ("sequence", e.names[2]))]
        needs = [describe(group, name)["needs"] for group, name in dict.fromkeys(choices)]
        text = " and ".join(need for need in needs if need)
        lines = ", ".join(markdown_code(command) for command in commands(experiments, seeds, OUTPUTS))
        yield f"{what}{f': needs {text}' if text else ''}: {lines}".replace("|", "\\|")
    if entry.row.gap:
        yield entry.row.gap
    elif compared:
        yield "no reason recorded"


def main() -> None:
    """Writes the file given as argument."""
    runs = scan([OUTPUTS] if Path(OUTPUTS).is_dir() else [])
    storage.write_text(Path(sys.argv[1]), reproduction(option_names("table"), runs))


if __name__ == "__main__":
    main()
