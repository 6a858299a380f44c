from __future__ import annotations

import numpy as np
import pytest

from everclip.metrics.base_to_novel import PROTOCOL
from tests.metrics.tables import table_of


def test_later_tasks_are_pooled_and_the_harmonic_mean_is_of_both_numbers() -> None:
    # novel: (30 + 60) of (50 + 150)
    table = table_of("accuracy", [[80, 60, 40]], [100, 50, 150])
    expected = {"base_accuracy": 80, "novel_accuracy": 45, "harmonic_mean": 2 * 80 * 45 / 125}
    assert PROTOCOL.session(table) == pytest.approx({"accuracy": 80, **expected})
    summary = PROTOCOL.summary(table)
    assert {key: summary[key] for key in expected} == pytest.approx(expected)
    assert (summary["last_accuracy"], summary["average_accuracy"]) == (80, 80)


def test_a_method_that_cannot_score_novel_classes_has_base_accuracy_alone() -> None:
    table = table_of("accuracy", [[80, np.nan]], [100, 50])
    session = PROTOCOL.session(table)
    assert session == {"accuracy": 80, "base_accuracy": 80, "novel_accuracy": None, "harmonic_mean": None}
    assert PROTOCOL.summary(table).keys().isdisjoint({"novel_accuracy", "harmonic_mean"})
