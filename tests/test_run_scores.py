"""Scores as run folders hold them, those of older versions included."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from everclip.digest import ListDigest, json_sha256
from everclip.errors import ConfigError
from everclip.metrics.scores import Score
from everclip.reporting.results import read_result, results_table, write_plots
from everclip.runs.folder import RunFolder
from everclip.runs.scores import confusion_of, lines_of, protocol_of, scores_of, stored, table_of

# Rows of a run of two tasks as versions before scores by name wrote them.
FIRST = {"task": 0, "name": "a", "accuracy": 80.0, "correct": 8, "count": 10}
SECOND = [
    {**FIRST, "accuracy": 70.0, "correct": 7},
    {"task": 1, "name": "b", "accuracy": 50.0, "correct": 5, "count": 10},
]
OLD: list[dict[str, Any]] = [
    {"index": 0, "accuracy": 80.0, "tasks": [FIRST]},
    {"index": 1, "accuracy": 60.0, "tasks": SECOND},
]
RECALLS = {"mean_recall": Score(50.0, 60), "i2t_r1": Score(100 / 3, 10)}


def test_old_rows_and_new_ones_give_the_same_table() -> None:
    table = table_of(OLD, 3)
    np.testing.assert_array_equal(table.matrix("accuracy"), [[80, np.nan, np.nan], [70, 50, np.nan]])
    anew = [
        {"tasks": [{"task": row["task"], "scores": stored(scores_of(row))} for row in record["tasks"]]}
        for record in OLD
    ]
    assert table_of(anew, 3).rows() == table.rows()


def test_without_a_number_of_tasks_those_that_were_evaluated_are_meant() -> None:
    assert table_of(OLD).matrix("accuracy").shape == (2, 2)
    assert table_of([]).matrix("accuracy").shape == (0, 0)


@pytest.mark.parametrize(
    ("run", "summary", "name"),
    [
        ({}, {"average_accuracy": 1.0}, "class_incremental"),
        ({}, {"transfer": 1.0, "avg": 1.0}, "multi_domain"),
        ({}, {"novel_accuracy": 1.0}, "base_to_novel"),
        ({"protocol": "retrieval"}, {"transfer": 1.0}, "retrieval"),
    ],
)
def test_the_protocol_is_named_or_told_by_an_old_summary(
    run: dict[str, Any], summary: dict[str, Any], name: str
) -> None:
    assert protocol_of(run, summary).name == name


def test_a_protocol_of_a_newer_version_is_an_error_with_a_reason() -> None:
    with pytest.raises(ConfigError, match="protocol 'depth' is unknown"):
        protocol_of({"protocol": "depth"}, {})


def test_an_old_folder_is_shown_as_ever(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_sessions(OLD, 2)
    folder.update_run(
        state="finished", method="ncm", backbone="tiny", sequence="mtil", digest="aa", seed=0, overrides=["seed=0"]
    )
    numbers = {"transfer": 1.0, "avg": 2.0, "last": 60.0, "trainable_parameters": 0}
    folder.write_summary({"accuracy_per_session": [80.0, 60.0], **numbers})
    result = read_result(folder)
    assert result is not None
    assert "|     0 |     1 | Transfer | Avg. |  Last |" in results_table([result])
    assert confusion_of(OLD) is None
    assert {path.stem for path in write_plots(folder)} == {"accuracy_per_session", "accuracy_matrix"}


def test_sessions_without_classes_of_their_own_are_not_confused() -> None:
    def records(*predicted: list[int]) -> list[dict[str, object]]:
        return [{"index": 1, "tasks": [{"task": task, "predicted": counts} for task, counts in enumerate(predicted)]}]

    apart = confusion_of(records([3, 1], [0, 4]))
    assert apart is not None
    assert apart.tolist() == [[3, 1], [0, 4]]
    assert confusion_of(records([4], [4])) is None  # every class came in the first session


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_the_files_of_accuracy_are_those_of_old(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_sessions(OLD, 3)
    head = "session,task_00,task_01,task_02"
    assert lines(tmp_path / "accuracy_matrix.csv") == [head, "0,80.0,,", "1,70.0,50.0,"]
    assert lines(tmp_path / "counts.csv") == [head, "0,10,0,0", "1,10,10,0"]
    rows = ["0,0,accuracy,80.0,10", "1,0,accuracy,70.0,10", "1,1,accuracy,50.0,10"]
    assert lines(tmp_path / "scores.csv") == ["session,task,score,value,count", *rows]


def test_one_session_more_adds_its_lines_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_sessions(OLD[:1], 2)
    with patch("everclip.runs.folder.lines_of", wraps=lines_of) as made:
        folder.write_sessions(OLD, 2)
    assert [call.args[0] for call in made.call_args_list] == [1]
    RunFolder(tmp_path / "at_once").write_sessions(OLD, 2)
    for name in ("sessions.jsonl", "accuracy_matrix.csv", "counts.csv", "scores.csv"):
        assert (tmp_path / name).read_text() == (tmp_path / "at_once" / name).read_text()


def test_the_digest_of_a_list_grows_with_it() -> None:
    values = [{"b": 1.5, "a": [1]}, "x", None]
    grown = ListDigest(values[:1])
    for count in (1, 2, 3):
        assert grown.hexdigest() == json_sha256(values[:count])
        grown.append(values[count % 3])
    assert ListDigest().hexdigest() == json_sha256([])


def test_another_entry_has_a_matrix_of_its_name(tmp_path: Path) -> None:
    records = [{"index": 0, "tasks": [{"task": 0, "name": "a", "scores": stored(RECALLS)}]}]
    RunFolder(tmp_path).write_sessions(records, 1, "mean_recall")
    assert lines(tmp_path / "mean_recall_matrix.csv") == ["session,task_00", "0,50.0"]
    assert lines(tmp_path / "counts.csv") == ["session,task_00", "0,60"]
    assert lines(tmp_path / "scores.csv")[2] == "0,0,i2t_r1,33.333333333333336,10"
    assert not (tmp_path / "accuracy_matrix.csv").exists()
    (tmp_path / "checkpoints").mkdir()
    RunFolder(tmp_path).clear()
    assert list(tmp_path.glob("*.csv")) == []
