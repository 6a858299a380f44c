from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from everclip.metrics.ordering import PROTOCOL, plcc, ranks, srcc
from everclip.metrics.scores import Score, ScoreTable


def test_correlations_are_scipys_with_ties() -> None:
    draw = np.random.RandomState(0)
    values = draw.randint(0, 6, 40).astype(float)
    scores = np.round(values + draw.standard_normal(40), 1)
    assert plcc(scores, values) == pytest.approx(stats.pearsonr(scores, values)[0], abs=1e-12)
    assert srcc(scores, values) == pytest.approx(stats.spearmanr(scores, values)[0], abs=1e-12)
    assert ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1, 2.5, 4]


def test_equal_scores_order_nothing() -> None:
    assert srcc(np.ones(3), np.arange(3.0)) == plcc(np.arange(3.0), np.ones(3)) == 0


def test_the_summary_counts_seen_tasks() -> None:
    table = ScoreTable(2)
    for rows in (((80, 90, 1), (10, 20, 3)), ((60, 70, 2), (40, 50, 4))):
        named = [dict(zip(("srcc", "plcc", "mae"), (Score(v, 5) for v in row), strict=True)) for row in rows]
        table.append(dict(enumerate(named)))
    assert PROTOCOL.session(table) == {"srcc": 50, "plcc": 60, "mae": 3}
    assert PROTOCOL.summary(table) == {
        "average_srcc": 65, "last_srcc": 50, "performance_drop": 30, "forgetting": 20, "backward_transfer": -20,
        "average_plcc": 75, "last_plcc": 60, "average_mae": 2, "last_mae": 3,
    }  # fmt: skip
