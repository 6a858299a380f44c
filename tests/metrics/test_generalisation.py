from __future__ import annotations

import numpy as np
import pytest

from everclip.metrics.generalisation import PROTOCOL
from tests.metrics.tables import table_of


def test_every_target_weighs_the_same_and_the_source_is_none() -> None:
    # CoOp in table 5 of arXiv 2203.05557: ImageNet; V2, Sketch, A, R
    table = table_of("accuracy", [[71.51, 64.2, 47.99, 49.71, 75.21]], [50000, 10000, 50889, 7500, 30000])
    expected = {"source_accuracy": 71.51, "target_accuracy": 59.2775}
    assert PROTOCOL.session(table) == pytest.approx({"accuracy": 71.51, **expected})
    summary = PROTOCOL.summary(table)
    assert {key: summary[key] for key in expected} == pytest.approx(expected)
    assert (summary["last_accuracy"], summary["average_accuracy"]) == (71.51, 71.51)


@pytest.mark.parametrize("targets", [[np.nan, np.nan], [50.0, np.nan]])
def test_a_target_that_was_not_evaluated_leaves_no_mean(targets: list[float]) -> None:
    table = table_of("accuracy", [[80.0, *targets]], [100, 50, 50])
    assert PROTOCOL.session(table) == {"accuracy": 80.0, "source_accuracy": 80.0, "target_accuracy": None}
    assert "target_accuracy" not in PROTOCOL.summary(table)
