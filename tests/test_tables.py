"""From run folders to lines of a table: what is shown, and what is left out and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everclip.reporting.grid import Cell, Grid, Line
from everclip.reporting.tables.definition import Definition
from everclip.reporting.tables.experiments import OUTPUTS, Experiment, Runs, commands, scan, sort_runs
from everclip.reporting.tables.table import Entry, make_table
from everclip.runs.folder import RunFolder

NCM = Experiment(("method=ncm",), (0, 1), "aaaa1111", ("ncm", "tiny", "shapes_fscil"), "data", "tiny")
ER = replace(NCM, overrides=("method=er",), digest="bbbb2222", names=("er", "tiny", "shapes_fscil"))
ROW = {"name": "NCM", "run": "method=ncm", "seeds": [0]}
VERSIONS = {"everclip": "0.1.0", "torch": "2.7.0"}


def write_run(root: Path, experiment: Experiment, seed: int, curve: list[float], **facts: Any) -> Path:
    """A run folder as a run leaves it: two tasks of 100 pictures, both with the session's accuracy."""
    method, backbone, sequence = experiment.names
    digest = facts.get("digest", experiment.digest)
    folder = RunFolder(root / sequence / method / backbone / digest / f"seed{seed}")
    tasks = [{"task": task, "correct": 50 + task, "count": 100, "accuracy": 50.0 + task} for task in range(len(curve))]
    records = [
        {"index": t, "tasks": tasks[: t + 1], "base_accuracy": 70.0, "novel_accuracy": 30.0} for t in range(len(curve))
    ]
    folder.write_sessions(records, len(curve))
    folder.write_summary(
        {
            "accuracy_per_session": curve,
            "average_accuracy": sum(curve) / len(curve),
            "performance_drop": curve[0] - curve[-1],
            "trainable_parameters": 1234,
            "train_seconds": 90.0,
            "eval_seconds": 30.0,
        },
    )
    run = {
        **dict(zip(("method", "backbone", "sequence"), experiment.names, strict=True)),
        "seed": seed,
        "digest": digest,
        "overrides": [*experiment.overrides, f"seed={seed}"],
        "fingerprint": "f1",
        "weights": {"sha256": "w1"},
        "commit": "c" * 40,
        "versions": VERSIONS,
        "precision": "32-true",
        "state": "finished",
        "attempts": [{"start": f"2026-01-0{seed + 1}T00:00:00+00:00"}],
    }
    folder.update_run(**(run | facts))
    return folder.path


def definition(**changes: Any) -> Definition:
    row = {
        "name": "NCM",
        "run": "method=ncm",
        "seeds": [0, 1],
        "published": [{"source": "a", "verified": True, "sessions": [88.0, 79.5]}],
    }
    given = {
        "title": "Tiny",
        "sessions": 2,
        "columns": ["average_accuracy", "performance_drop", "trainable_parameters", "minutes"],
        "sources": {"a": "a paper"},
        "rows": {"": [row]},
    }
    return Definition.model_validate(given | changes)


def table_of(root: Path, *experiments: Experiment, shown: Definition | None = None) -> Grid:
    shown = shown or definition()
    ((group, row),) = shown.all_rows()
    entries = [Entry(group, row, [("", experiment)]) for experiment in experiments or (NCM,)]
    return make_table(shown, entries, scan([str(root)]))[0]


def values(table: Grid, kind: str) -> list[float | None]:
    (line,) = lines(table, kind)
    return [cell.number for cell in figures(table, line)]


def lines(table: Grid, kind: str) -> list[Line]:
    return [line for line in table.lines if table.cell(line, "figures").value == kind]


def figures(table: Grid, line: Line) -> list[Cell]:
    return [cell for column, cell in zip(table.columns, line.cells, strict=True) if column.numeric]


def seeds(table: Grid, line: Line) -> str:
    return str(table.cell(line, "seeds").value)


def notes(table: Grid, start: str) -> list[tuple[str, str]]:
    return [item for note in table.notes if note.title.startswith(start) for item in note.items]


def test_mean_deviation_and_difference(tmp_path: Path) -> None:
    write_run(tmp_path, NCM, 0, [90.0, 80.0])
    write_run(tmp_path, NCM, 1, [92.0, 84.0])
    table = table_of(tmp_path)
    assert values(table, "published") == [88.0, 79.5, 83.75, 8.5, None, None]
    assert values(table, "obtained") == [91.0, 82.0, 86.5, 9.0, 1234.0, 2.0]
    assert values(table, "difference") == [3.0, 2.5, 2.75, 0.5, None, None]
    (obtained,) = lines(table, "obtained")
    assert seeds(table, obtained) == "2"
    # (90, 92), (80, 84), (85, 88) and (10, 8) around their means
    assert [cell.std for cell in figures(table, obtained)[:4]] == pytest.approx([2**0.5, 8**0.5, 4.5**0.5, 2**0.5])
    assert [cell.n for cell in figures(table, obtained)[:2]] == [2, 2]
    assert notes(table, "Missing") == []


def test_the_best_of_each_column_and_group_is_marked() -> None:
    rows = {
        "one": [
            {"name": "A", "published": [{"source": "a", "verified": True, "sessions": [90.0, 70.001]}]},
            {"name": "B", "published": [{"source": "a", "verified": False, "sessions": [80.0, 70.004]}]},
        ],
        "two": [{"name": "C", "published": [{"source": "a", "verified": True, "sessions": [99.0, 99.0]}]}],
    }
    shown = definition(rows=rows)
    table, _ = make_table(shown, [Entry(group, row, []) for group, row in shown.all_rows()], Runs())
    best = [[cell.best for cell in figures(table, line)[:4]] for line in table.lines]
    # columns: session 0, session 1 (equal as shown), average, performance drop (the lower the better)
    assert best == [[True, True, True, False], [False, True, False, True], [False] * 4]
    assert [cell.verified for cell in figures(table, table.lines[1])[:4]] == [False] * 4


def test_a_verified_figure_comes_before_a_printed_one_that_is_not() -> None:
    blocks = [
        {"source": "a", "verified": False, "average_accuracy": 1.0, "performance_drop": 2.0},
        {"source": "a", "verified": True, "sessions": [90.0, None]},
        {"source": "a", "verified": True, "sessions": [90.0, 80.0], "performance_drop": 3.0},
    ]
    shown = definition(rows={"": [{"name": "A", "published": blocks}]})
    ((_, row),) = shown.all_rows()
    figures = {column.name: row.figure(column) for column in shown.all_columns()}
    assert figures["average_accuracy"] == (85.0, True)
    assert figures["performance_drop"] == (3.0, True)
    assert figures["sessions/1"] == (80.0, True)
    assert figures["minutes"] is None


def test_tasks_and_figures_of_the_last_session_come_from_its_record(tmp_path: Path) -> None:
    write_run(tmp_path, NCM, 0, [90.0, 80.0])
    shown = definition(
        sessions=0, tasks=["x", "y"], columns=["base_accuracy", "forgetting"], sources={}, rows={"": [ROW]}
    )
    assert values(table_of(tmp_path, replace(NCM, seeds=(0,)), shown=shown), "obtained") == [50.0, 51.0, 70.0]


def test_parts_have_runs_of_their_own_and_a_mean(tmp_path: Path) -> None:
    shown = definition(
        sessions=0, parts={"x": "x=1", "y": "y=1"}, metric="average_accuracy", columns=["harmonic_mean"], sources={},
        rows={"": [{**ROW, "seeds": [0, 1]}]},
    )  # fmt: skip
    ((group, row),) = shown.all_rows()
    entries = [Entry(group, row, [("x=1", NCM), ("y=1", ER)])]
    write_run(tmp_path, NCM, 0, [90.0])
    write_run(tmp_path, NCM, 1, [92.0])
    write_run(tmp_path, ER, 0, [70.0])
    table, _ = make_table(shown, entries, scan([str(tmp_path)]))
    # seed 1 has no run of part y, so it has no mean; the harmonic mean of two parts is that of means 70 and 30
    assert values(table, "obtained") == [91.0, 70.0, 80.0, 42.0]
    assert [cell.n for cell in figures(table, table.lines[0])] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        pytest.param({"fingerprint": "f2"}, "data fingerprint f2; the others have f1", id="data"),
        pytest.param({"weights": {"sha256": "w2"}}, "weights w2; the others have w1", id="weights"),
        pytest.param(
            {"commit": "d" * 40 + "+changes"}, f"commit {'d' * 12}+changes; the others have {'c' * 12}", id="code"
        ),
        pytest.param(
            {"versions": {"everclip": "0.1.0", "torch": "2.6.0"}},
            "versions torch 2.6.0; the others have torch 2.7.0",
            id="versions",
        ),
        pytest.param({"precision": "bf16-mixed"}, "precision bf16-mixed; the others have 32-true", id="precision"),
    ],
)
def test_what_differs_from_most_is_stale_and_not_mixed_in(tmp_path: Path, facts: dict[str, Any], reason: str) -> None:
    experiment = replace(NCM, seeds=(0, 1, 2))
    for seed in (0, 1):
        write_run(tmp_path, experiment, seed, [90.0, 80.0])
    folder = write_run(tmp_path, experiment, 2, [10.0, 5.0], **facts)
    shown = definition(rows={"": [{**ROW, "seeds": [0, 1, 2]}]})
    table = table_of(tmp_path, experiment, shown=shown)
    assert values(table, "obtained")[:2] == [90.0, 80.0]
    assert seeds(table, table.lines[0]) == "2/3"
    assert notes(table, "Stale") == [(f"ncm, 1 x: {reason}: {folder}", "")]
    assert notes(table, "Missing") == [("NCM, seed 2", "everclip method=ncm seed=2")]


def test_of_two_that_differ_the_newest_stays(tmp_path: Path) -> None:
    write_run(tmp_path, NCM, 0, [90.0, 80.0])
    write_run(tmp_path, NCM, 1, [70.0, 60.0], commit="d" * 40)  # written a day later
    table = table_of(tmp_path)
    assert values(table, "obtained")[:2] == [70.0, 60.0]
    assert notes(table, "Commits") == [("obtained at dddddddd", "")]


def test_data_must_be_the_same_over_rows_code_need_not(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, NCM, seed, [90.0, 80.0])
    write_run(tmp_path, ER, 0, [70.0, 60.0], commit="d" * 40)
    folder = write_run(tmp_path, ER, 1, [70.0, 60.0], fingerprint="f2", commit="d" * 40)
    table = table_of(tmp_path, NCM, ER)
    assert [seeds(table, line) for line in lines(table, "obtained")] == ["2", "1/2"]
    assert notes(table, "Stale") == [(f"er, 1 x: data fingerprint f2; the others have f1: {folder}", "")]
    assert notes(table, "Commits") == [("cccccccc: NCM", ""), ("dddddddd: NCM", "")]


def test_other_settings_are_told_from_a_definition_that_changed(tmp_path: Path) -> None:
    other = write_run(tmp_path, NCM, 0, [1.0], digest="x1", overrides=["method=ncm", "train.epochs=1", "paths.data=d"])
    changed = write_run(tmp_path, NCM, 0, [1.0], digest="x2")
    write_run(tmp_path, ER, 0, [1.0])
    write_run(tmp_path, NCM, 7, [1.0])  # a seed that is not asked for
    assert [text for text, _ in notes(table_of(tmp_path), "Stale")] == [
        f"ncm, 1 x: other settings: train.epochs=1: {other}",
        f"ncm, 1 x: digest x2, but the definition composes to aaaa1111 today: {changed}",
    ]


def test_the_same_run_in_two_places_counts_once(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", NCM, 0, [90.0, 80.0], attempts=[{"start": "2025"}])
    new = write_run(tmp_path / "new", NCM, 0, [70.0, 60.0])
    found = sort_runs(scan([str(tmp_path)]).finished, [NCM])
    assert [result.folder for result in found.used[NCM.digest].values()] == [new]
    assert [(result.folder, reason) for result, reason in found.stale] == [(old, f"made again in {new}")]


def test_damaged_and_unfinished_folders_are_listed(tmp_path: Path) -> None:
    garbage, lost, other = (write_run(tmp_path / name, NCM, 0, [1.0]) for name in ("a", "b", "c"))
    (garbage / "run.json").write_text('{"state": "fini')
    (lost / "summary.json").unlink()
    (other / "run.json").unlink()
    RunFolder(other).update_run(state="finished")
    write_run(tmp_path / "d", NCM, 1, [1.0], state="preempted")
    table = table_of(tmp_path)
    assert notes(table, "Damaged") == [
        (f"{garbage}: run.json is missing or damaged", ""),
        (f"{lost}: finished, but summary.json is missing or damaged", ""),
        (f"{other}: run.json lacks method, backbone, sequence, seed, digest, overrides", ""),
    ]
    assert notes(table, "Missing") == [("NCM, seeds 0, 1, preempted", "everclip -m method=ncm seed=0,1")]


def test_a_command_line_is_quoted_and_names_the_folder() -> None:
    experiment = replace(NCM, overrides=("+experiment=cpe_clip/cub200", "method.template='a {}'"))
    assert commands([experiment], [3], "my runs") == [
        """everclip +experiment=cpe_clip/cub200 'method.template='"'"'a {}'"'"'' seed=3 'paths.outputs=my runs'"""
    ]


def test_runs_that_differ_in_one_choice_are_one_sweep() -> None:
    a, b, c, d = (replace(NCM, overrides=("method=ncm", *more)) for more in (["x=1"], ["x=2"], ["y=1"], ["x='a,b'"]))
    assert commands([a, b], [3], OUTPUTS) == ["everclip -m method=ncm x=1,2 seed=3"]
    assert commands([a, c], [3], OUTPUTS) == ["everclip method=ncm x=1 seed=3", "everclip method=ncm y=1 seed=3"]
    assert len(commands([a, d], [3], OUTPUTS)) == 2


def test_data_may_follow_the_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = write_run(tmp_path, NCM, seed, [90.0, 80.0], fingerprint=f"f{seed}")
        (folder / "config.yaml").write_text(f"sequence:\n  seed: {seed}\n")
    found = sort_runs(scan([str(tmp_path)]).finished, [NCM])
    assert (sorted(found.used[NCM.digest]), found.stale) == ([0, 1], [])
