from __future__ import annotations

import pytest

from everclip.metrics.retrieval import PROTOCOL, RECALLS
from everclip.metrics.scores import Score, ScoreTable


def task(i2t: tuple[float, float, float], t2i: tuple[float, float, float], pictures: int) -> dict[str, Score]:
    """Recalls of a domain, and their mean."""
    values = (*i2t, *t2i)
    scores = {name: Score(value, pictures) for name, value in zip(RECALLS, values, strict=True)}
    return scores | {"mean_recall": Score(sum(values) / 6, pictures)}


@pytest.fixture
def table() -> ScoreTable:
    """Two domains of different size, both judged after both sessions."""
    made = ScoreTable(2)
    made.append({0: task((40, 70, 80), (30, 60, 80), 10), 1: task((20, 40, 60), (10, 30, 50), 100)})
    made.append({0: task((30, 60, 80), (20, 50, 60), 10), 1: task((50, 80, 90), (40, 70, 90), 100)})
    return made


def test_a_session_is_the_mean_over_domains_whatever_their_size(table: ScoreTable) -> None:
    # mean recall: domain 0: 50, domain 1: 70
    assert PROTOCOL.session(table) == {
        "mean_recall": 60, "i2t_r1": 40, "i2t_r5": 70, "i2t_r10": 85, "t2i_r1": 30, "t2i_r5": 60, "t2i_r10": 75,
    }  # fmt: skip


def test_the_summary_counts_seen_domains(table: ScoreTable) -> None:
    # After session 0 domain 0 alone is seen: mean recall 60, i2t R@1 40, t2i R@5 60.
    assert PROTOCOL.summary(table) == pytest.approx(
        {
            "average_mean_recall": 60, "last_mean_recall": 60, "performance_drop": 0, "forgetting": 10,
            "backward_transfer": -10,
            "average_i2t_r1": 40, "average_i2t_r5": 70, "average_i2t_r10": 82.5,
            "average_t2i_r1": 30, "average_t2i_r5": 60, "average_t2i_r10": 77.5,
            "last_i2t_r1": 40, "last_i2t_r5": 70, "last_i2t_r10": 85,
            "last_t2i_r1": 30, "last_t2i_r5": 60, "last_t2i_r10": 75,
        }
    )  # fmt: skip
