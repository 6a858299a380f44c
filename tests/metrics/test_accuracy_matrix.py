from __future__ import annotations

import numpy as np
import pytest

from everclip.metrics.accuracy_matrix import (
    AccuracyMatrix,
    class_incremental_metrics,
    harmonic_mean,
    multi_domain_metrics,
    session_accuracy,
)
from everclip.reporting.tables.definition import read_definition

NAN = np.nan
# The matrix on which six toolboxes disagree, worked out by hand.
EXAMPLE = np.array([[90, NAN, NAN, NAN], [92, 60, NAN, NAN], [91, 63, 50, NAN], [80, 58, 40, 55]], dtype=float)
SIZES = np.array([600, 50, 50, 50], dtype=float)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("average_accuracy", 84.95),
        ("average/micro_curve", 84.95),
        ("average/pooled", 84.48),
        ("average/macro_curve", 73.06),
        ("average/macro_last", 58.25),
        ("last_accuracy", 74.20),
        ("performance_drop", 15.80),
        ("forgetting", 9.00),
        ("forgetting/max", 9.00),
        ("forgetting/first", 7.33),
        ("forgetting/all_sessions", 3.83),
        ("forgetting/lagged", 4.00),
        ("forgetting/lagged_mean", 0.875),
        ("backward_transfer", -7.33),
        ("backward_transfer/lagged", -1.83),
        ("harmonic_mean", 2 * 80 * 51 / 131),
    ],
)
def test_worked_example(name: str, expected: float) -> None:
    assert class_incremental_metrics(EXAMPLE, SIZES)[name] == pytest.approx(expected, abs=0.005)


def test_every_metric_is_in_the_worked_example() -> None:
    assert len(class_incremental_metrics(EXAMPLE, SIZES)) == 16


def test_session_accuracy_is_pooled_over_pictures() -> None:
    assert session_accuracy(EXAMPLE, SIZES)[1] == pytest.approx((552 + 30) / 650 * 100)


def test_one_session_has_no_forgetting() -> None:
    metrics = class_incremental_metrics(np.array([[70.0]]), np.array([10.0]))
    assert metrics["last_accuracy"] == 70
    assert metrics["performance_drop"] == 0
    assert "forgetting" not in metrics


def test_multi_domain_example() -> None:
    # Transfer: task 1: 50; task 2: (60 + 64) / 2; Avg: column means 80, 66, 70; Last: 70, 68, 86.
    matrix = np.array([[90.0, 50, 60], [80, 80, 64], [70, 68, 86]])
    assert multi_domain_metrics(matrix) == {
        "transfer": pytest.approx((50 + 62) / 2),
        "avg": pytest.approx((80 + 66 + 70) / 3),
        "last": pytest.approx((70 + 68 + 86) / 3),
    }


@pytest.mark.parametrize(("order", "transfer"), [("mtil_order1", 69.4), ("mtil_order2", 65.4)])
def test_a_model_that_never_changes_on_mtil(order: str, transfer: float) -> None:
    # What ZSCL (arXiv 2303.06628) prints for zero-shot CLIP, from its accuracies on the eleven data sets.
    first = read_definition("mtil_order1")
    tasks = first.rows["All training pictures"][0].published[0].figures["tasks"]
    by_name = dict(zip(first.tasks, np.array(tasks, dtype=float), strict=True))
    row = [by_name[name] for name in read_definition(order).tasks]
    metrics = multi_domain_metrics(np.tile(row, (11, 1)))
    expected = {"transfer": transfer, "avg": 65.3, "last": 65.3}
    assert metrics == pytest.approx(expected, abs=0.06)  # the accuracies are rounded too


def test_harmonic_mean_of_nothing_is_nothing() -> None:
    assert harmonic_mean(0, 0) == 0
    assert harmonic_mean(50, 100) == pytest.approx(66.667, abs=1e-3)


def test_what_was_not_evaluated_is_nan_and_has_no_count() -> None:
    matrix = AccuracyMatrix(3)
    matrix.append({0: 5}, {0: 10})
    assert matrix.accuracy[0, 0] == 50
    assert np.isnan(matrix.accuracy[0, 1:]).all()
    assert matrix.counts[0].tolist() == [10, 0, 0]


def test_another_number_of_pictures_is_refused() -> None:
    matrix = AccuracyMatrix(1)
    matrix.append({0: 5}, {0: 10})
    with pytest.raises(ValueError, match="11 pictures, earlier on 10"):
        matrix.append({0: 5}, {0: 11})


def test_transfer_appears_only_when_all_tasks_are_evaluated() -> None:
    matrix = AccuracyMatrix(2)
    matrix.append({0: 5, 1: 2}, {0: 10, 1: 10})
    assert "transfer" not in matrix.metrics()
    matrix.append({0: 4, 1: 8}, {0: 10, 1: 10})
    assert matrix.metrics()["transfer"] == 20


def test_a_single_session_has_no_transfer() -> None:
    matrix = AccuracyMatrix(1)
    matrix.append({0: 5}, {0: 10})
    assert matrix.metrics().keys() >= {"avg", "last", "last_accuracy"}
    assert "transfer" not in matrix.metrics()


def test_one_session_and_tasks_never_trained_give_base_and_novel() -> None:
    matrix = AccuracyMatrix(3)
    matrix.append({0: 80, 1: 30, 2: 60}, {0: 100, 1: 50, 2: 150})
    metrics = matrix.metrics()
    assert (metrics["base_accuracy"], metrics["novel_accuracy"]) == (80, 45)
    assert metrics["harmonic_mean"] == pytest.approx(2 * 80 * 45 / 125)
    alone = AccuracyMatrix(3)
    alone.append({0: 80}, {0: 100})
    assert "novel_accuracy" not in alone.metrics()
