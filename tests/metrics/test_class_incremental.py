from __future__ import annotations

import numpy as np
import pytest

from everclip.metrics.class_incremental import PROTOCOL, class_incremental_metrics
from everclip.metrics.matrix import harmonic_mean, session_accuracy
from tests.metrics.tables import table_of

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


def test_harmonic_mean_of_nothing_is_nothing() -> None:
    assert harmonic_mean(0, 0) == 0
    assert harmonic_mean(50, 100) == pytest.approx(66.667, abs=1e-3)


def test_the_table_gives_the_worked_example() -> None:
    table = table_of("accuracy", EXAMPLE, SIZES)
    assert PROTOCOL.summary(table) == pytest.approx(class_incremental_metrics(EXAMPLE, SIZES))


def test_the_latest_session_is_pooled_over_pictures() -> None:
    # (480 + 29 + 20 + 27.5) / 750; novel: (29 + 20 + 27.5) / 150
    numbers = PROTOCOL.session(table_of("accuracy", EXAMPLE, SIZES))
    assert numbers == {
        "accuracy": pytest.approx(74.2),
        "base_accuracy": 80,
        "novel_accuracy": pytest.approx(51.0),
    }
    first = PROTOCOL.session(table_of("accuracy", EXAMPLE[:1], SIZES))
    assert first == {"accuracy": 90, "base_accuracy": 90, "novel_accuracy": None}
