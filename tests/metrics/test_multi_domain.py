from __future__ import annotations

import numpy as np
import pytest

from everclip.metrics.multi_domain import PROTOCOL, multi_domain_metrics
from everclip.reporting.tables.definition import read_definition
from tests.metrics.tables import table_of


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


def test_transfer_appears_only_when_all_tasks_are_evaluated() -> None:
    summary = PROTOCOL.summary(table_of("accuracy", [[50, 20]], [10, 10]))
    assert summary.keys().isdisjoint({"transfer", "avg", "last"})
    summary = PROTOCOL.summary(table_of("accuracy", [[50, 20], [40, 80]], [10, 30]))
    assert (summary["transfer"], summary["avg"], summary["last"]) == (20, 47.5, 60)
    assert summary["last_accuracy"] == pytest.approx((4 + 24) / 40 * 100)


def test_a_method_that_is_not_judged_by_later_domains_has_what_needs_none() -> None:
    summary = PROTOCOL.summary(table_of("accuracy", [[50, np.nan], [40, 80]], [10, 10]))
    assert (summary["forgetting"], summary["last"]) == (10, 60)
    assert summary.keys().isdisjoint({"transfer", "avg"})


def test_a_single_session_has_no_transfer() -> None:
    summary = PROTOCOL.summary(table_of("accuracy", [[50]], [10]))
    assert summary.keys() >= {"avg", "last", "last_accuracy"}
    assert "transfer" not in summary
