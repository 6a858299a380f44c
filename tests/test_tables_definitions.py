"""The tables' definitions: figures that follow from others agree with the printed ones, and rows of ours compose."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from everclip.config.build import compose
from everclip.config.catalogue import option_names
from everclip.config.identity import digest
from everclip.errors import ConfigError
from everclip.reporting.tables.definition import COLUMNS, Column, Definition, Published, Row, read_definition
from everclip.reporting.tables.experiments import Runs
from everclip.reporting.tables.table import Entry, make_table

ROW = 'rows: {{"": [{{name: A, published: [{{source: a, verified: true, {}}}]}}]}}'
TABLES = option_names("table")
AS_SHAPES = {  # the same methods on other sequences
    table: pytest.param(table, marks=pytest.mark.everything) for table in ("shapes_cil", "shapes_mtil")
}
Entries = Callable[[str], list[Entry]]
read = cache(read_definition)
pytestmark = pytest.mark.xdist_group("tables")  # what is composed once serves all of them


def labels(definition: Definition) -> list[tuple[str, Row]]:
    """Rows by name, with the group before it where the name alone does not tell them apart."""
    rows = list(definition.all_rows())
    names = Counter(row.name for _, row in rows)
    return [(row.name if names[row.name] == 1 else f"{group}: {row.name}", row) for group, row in rows]


def tolerance(block: Published, column: Column) -> float:
    """What rounding can make of a figure that follows from others: a unit of the last digit; more for differences."""
    figures = [v for values in block.figures.values() for v in (values if isinstance(values, list) else [values])]
    digits = max(len(repr(v).partition(".")[2]) for v in figures if v is not None)
    return (1.5 if column.key in ("performance_drop", "harmonic_mean") else 1.0) * 10.0**-digits + 1e-9


def disagreements(row: Row, columns: list[Column]) -> list[str]:
    """Columns on which sources differ, or on which a source differs from what follows from its own figures."""
    found = []
    for column in columns:
        printed = [value for block in row.published if (value := block.given(column)) is not None]
        derived = [(value, tolerance(b, column)) for b in row.published if (value := b.derived(column)) is not None]
        apart = bool(printed) and max(printed) - min(printed) > 1e-9
        if apart or any(abs(value - figure) > limit for value, limit in derived for figure in printed):
            found.append(column.name)
    return found


@pytest.mark.parametrize("table", TABLES)
def test_exactly_the_recorded_figures_are_disputed(table: str) -> None:
    definition = read(table)
    columns = list(definition.all_columns())
    found = [(label, name) for label, row in labels(definition) for name in disagreements(row, columns)]
    assert sorted(found) == sorted((dispute.row, dispute.column) for dispute in definition.disputed)


@pytest.mark.parametrize("table", TABLES)
def test_what_was_quoted_recalled_or_inferred_is_not_verified(table: str) -> None:
    definition = read(table)
    hearsay = {key for key, text in definition.sources.items() if re.search("recalled|through|quoted|inferred", text)}
    blocks = [(label, block) for label, row in labels(definition) for block in row.published if block.verified]
    assert [label for label, block in blocks if hearsay & set(block.source.split(", "))] == []


def test_more_steps_lower_every_published_average_on_tiny_imagenet() -> None:
    averages: dict[str, list[float]] = {}
    for _, row in read("cil_tinyimagenet").all_rows():
        if found := row.figure(COLUMNS["average_accuracy"]):
            averages.setdefault(row.name, []).append(found[0])
    assert averages == {name: sorted(values, reverse=True) for name, values in averages.items()}
    assert averages["MoE-Adapters"] == [81.12, 80.23, 79.96]  # cil/experiments/class of their repository


@pytest.mark.parametrize("table", [name for name in TABLES if name not in AS_SHAPES])
def test_every_printed_command_composes_to_the_row_it_is_for(table: str, entries: Entries) -> None:
    shown, _ = make_table(read(table), entries(table), Runs())
    experiments = [experiment for entry in entries(table) for _, experiment in entry.experiments]
    known = {experiment.overrides: experiment.digest for experiment in experiments}
    found = set()
    for command in (command for note in shown.notes if note.title == "Missing runs" for _, command in note.items):
        program, *words = shlex.split(command)
        assert program == "everclip"
        overrides = OverridesParser.create().parse_overrides([word for word in words if word != "-m"])
        assert ("-m" in words) == any(override.is_sweep_override() for override in overrides)
        *choices, seeds = [
            [f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line]
            for o in overrides
        ]
        for chosen in itertools.product(*choices):
            # The row's own words, all of them, compose to what the row composes to.
            composed = known.get(chosen) or digest(compose([*chosen, seeds[0]]))
            found.add((composed, tuple(int(seed.removeprefix("seed=")) for seed in seeds)))
    assert found == {(experiment.digest, experiment.seeds) for experiment in experiments}


@pytest.mark.parametrize("table", [AS_SHAPES.get(table, table) for table in TABLES])
def test_every_row_composes_to_the_recorded_settings(
    table: str, entries: Entries, request: pytest.FixtureRequest
) -> None:
    found = {f"{e.group}: {e.row.name}": [x.digest for _, x in e.experiments] for e in entries(table) if e.experiments}
    path = Path(__file__).parent / "golden" / "tables.json"
    recorded = json.loads(path.read_text())
    if request.config.getoption("--remake-golden"):
        recorded[table] = found
        path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    known = recorded[table]  # rows of methods that are new are not
    assert {row: found.get(row) for row in known} == known


@pytest.mark.parametrize("table", ["shapes", *AS_SHAPES.values()])
def test_the_embedded_tables_have_every_method(table: str, entries: Entries) -> None:
    sequence = "shapes_fscil" if table == "shapes" else table
    assert [entry.row.name for entry in entries(table)] == option_names("method")
    assert [e.names for entry in entries(table) for _, e in entry.experiments] == [
        (method, "tiny", sequence) for method in option_names("method")
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param("columns: [average_acuracy]", "unknown; did you mean average_accuracy", id="key"),
        pytest.param('rows: {"": [{name: A}]}', "row 'A' needs a name with published or run", id="empty row"),
        pytest.param(ROW.format("sessions: [1]"), "sessions has no such column, or a list of another", id="length"),
        pytest.param(ROW.format("pd: 1"), "row A: pd has no such column", id="figure"),
        pytest.param(ROW.format("transfer: x"), "Input should be a valid number", id="type"),
        pytest.param("sources: {}", "source a is not among sources", id="source"),
        pytest.param("sorces: {}", "sorces Extra inputs are not permitted", id="extra"),
        pytest.param("title: [", "is no YAML", id="syntax"),
    ],
)
def test_a_wrong_definition_is_refused(tmp_path: Path, change: str, message: str) -> None:
    key = change.partition(":")[0]
    lines = {"title": "title: T", "sessions": "sessions: 2", "sources": "sources: {a: b}", "rows": ROW.format("avg: 1")}
    path = tmp_path / "table.yaml"
    path.write_text("\n".join((lines | {key: change}).values()))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_definition(str(path))
