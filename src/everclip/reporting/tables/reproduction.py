"""Writes `REPRODUCTION.md`: every row of ours of every table, beside what was published."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from everclip import storage
from everclip.config.catalogue import describe, option_names
from everclip.reporting.tables.definition import Column, read_definition
from everclip.reporting.tables.experiments import OUTPUTS, Runs, commands, scan
from everclip.reporting.tables.formats import cell_text
from everclip.reporting.tables.table import Cell, Entry, Line, commit_of, make_entries, make_table, seeds_text

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
        table, entries = make_table(definition, make_entries(definition, (), ()), runs)
        for entry in entries:
            digests = tuple(experiment.digest for _, experiment in entry.experiments)
            if digests and digests not in seen:
                seen.add(digests)
                lines = [line for line in table.lines if (line.group, line.row) == (entry.group, entry.row.name)]
                benchmark = f"{name}, {entry.group}" if entry.group else name
                rows.append([entry.row.name, benchmark, *_facts(entry, lines, table.columns)])
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([HEAD, head, "|---" * len(rows[0]) + "|", *body]) + "\n"


def _facts(entry: Entry, lines: Sequence[Line], columns: Sequence[Column]) -> list[str]:
    """Published, obtained, seeds, commit, reason."""
    cells = {line.kind: line.cells for line in lines}
    shown = [index for index, column in enumerate(columns) if column.better and column.index is None]
    published, obtained = (_figures(cells.get(kind, []), columns, shown) for kind in ("published", "obtained"))
    commits = ", ".join(dict.fromkeys(commit_of(result) for result in entry.results))
    (made,) = (line.seeds for line in lines if line.kind == "obtained")
    return [published, obtained, made, commits, "; ".join(_reasons(entry, "difference" in cells))]


def _figures(cells: Sequence[Cell], columns: Sequence[Column], shown: Sequence[int]) -> str:
    pairs = [(columns[index], cells[index]) for index in shown if cells and cells[index].value is not None]
    return ", ".join(f"{column.heading} {cell_text(cell, column, '')}" for column, cell in pairs)


def _reasons(entry: Entry, compared: bool) -> Iterator[str]:
    """What is missing and what it takes; else why obtained and published differ."""
    for experiments, seeds in entry.lacking():
        what = "not run" if seeds == entry.row.seeds else f"{seeds_text(seeds)} not run"
        choices = [pair for e in experiments for pair in (("backbone", e.names[1]), ("sequence", e.names[2]))]
        needs = [describe(group, name)["needs"] for group, name in dict.fromkeys(choices)]
        text = " and ".join(need for need in needs if need)
        lines = ", ".join(f"`{command}`" for command in commands(experiments, seeds, OUTPUTS))
        yield f"{what}{f': needs {text}' if text else ''}: {lines}"
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
