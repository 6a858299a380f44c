"""Scores by session, task and name."""

from __future__ import annotations

import numpy as np
import pytest

from everclip.metrics.scores import Score, ScoreTable
from tests.metrics.tables import table_of


def test_what_was_not_evaluated_is_nan_and_has_no_count() -> None:
    table = table_of("accuracy", [[50, np.nan, np.nan]], [10, 10, 10])
    assert table.matrix("accuracy")[0, 0] == 50
    assert np.isnan(table.matrix("accuracy")[0, 1:]).all()
    assert table.counts("accuracy")[0].tolist() == [10, 0, 0]


def test_a_name_that_was_never_given_is_not_evaluated() -> None:
    table = table_of("accuracy", [[50.0]], [10])
    assert np.isnan(table.matrix("miou")).all()
    assert table.task_counts("miou").tolist() == [0]
    assert table.pooled("miou", [0]) is None


def test_another_number_of_samples_is_refused_and_leaves_the_table_alone() -> None:
    table = table_of("accuracy", [[50.0]], [10])
    with pytest.raises(ValueError, match="accuracy of task 0 is of 11 samples, earlier of 10"):
        table.append({0: {"accuracy": Score(50.0, 11)}})
    assert len(table) == 1


@pytest.mark.parametrize(("value", "count"), [(float("nan"), 10), (float("inf"), 10), (50.0, 0)])
def test_a_score_without_a_value_or_samples_is_refused(value: float, count: int) -> None:
    with pytest.raises(ValueError, match="finite value and samples"):
        Score(value, count)


def test_pooled_weighs_samples_and_mean_weighs_tasks() -> None:
    table = table_of("accuracy", [[90, np.nan], [80, 20]], [30, 10])
    assert table.pooled("accuracy", [0, 1]) == 65
    assert table.mean("accuracy", [0, 1]) == 50
    assert table.pooled("accuracy", []) is None


def test_rows_list_every_score() -> None:
    table = ScoreTable(2)
    table.append({1: {"i2t_r1": Score(20.0, 5), "t2i_r1": Score(30.0, 25)}})
    assert table.rows() == [(0, 1, "i2t_r1", Score(20.0, 5)), (0, 1, "t2i_r1", Score(30.0, 25))]
    assert table.names == ["i2t_r1", "t2i_r1"]
