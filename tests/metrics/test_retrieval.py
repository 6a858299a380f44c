from __future__ import annotations

import pytest

from everclip.metrics.retrieval import PROTOCOL, RECALLS
from everclip.metrics.scores import Score, ScoreTable


def task(i2t: tuple[float, float, float], t2i: tuple[float, float, float], pictures: int) -> dict[str, Score]:
    """Recalls of a domain, and their mean."""
    values = (*i2t, *t2i)
    scores = {name: Score(value, pictures) for name, value in zip(RECALLS, values, strict=True)}
    return scores | {"mean_recall": Score(sum(values) / 6, pictures)}


def task_of(table: ScoreTable, session: int, task: int) -> dict[str, Score]:
    """The scores of a task after a session."""
    return {name: score for s, j, name, score in table.rows() if (s, j) == (session, task)}


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
        "unseen_mean_recall": None, "unseen_i2t_r1": None, "unseen_t2i_r1": None,
    }  # fmt: skip


def test_the_summary_counts_seen_domains(table: ScoreTable) -> None:
    # After session 0 domain 0 alone is seen: mean recall 60, i2t R@1 40, t2i R@5 60.
    assert PROTOCOL.summary(table) == pytest.approx(
        {
            "average_mean_recall": 60, "last_mean_recall": 60, "performance_drop": 0, "forgetting": 10,
            "backward_transfer": -10, "transfer": 35, "avg": (55 + 52.5) / 2, "last": 60,
            "average_i2t_r1": 40, "average_i2t_r5": 70, "average_i2t_r10": 82.5,
            "average_t2i_r1": 30, "average_t2i_r5": 60, "average_t2i_r10": 77.5,
            "last_i2t_r1": 40, "last_i2t_r5": 70, "last_i2t_r10": 85,
            "last_t2i_r1": 30, "last_t2i_r5": 60, "last_t2i_r10": 75,
            "asymmetry_r5": 10,
        }
    )  # fmt: skip


def test_a_domain_without_a_session_is_told_apart(table: ScoreTable) -> None:
    with_unseen = ScoreTable(3)
    for session, recall in enumerate((20, 30)):
        seen = {j: task_of(table, session, j) for j in range(2)}
        with_unseen.append({**seen, 2: task((recall, 90, 90), (recall + 10, 90, 90), 5)})
    without, found = PROTOCOL.summary(table), PROTOCOL.summary(with_unseen)
    assert {key: found[key] for key in without} == without
    assert {key: found[key] for key in found.keys() - without.keys()} == pytest.approx(
        {"unseen_mean_recall": (30 + 40 + 4 * 90) / 6, "unseen_i2t_r1": 30, "unseen_t2i_r1": 40}
    )


def test_ranks_and_diagnostics_count_where_all_sessions_have_them(table: ScoreTable) -> None:
    grown = ScoreTable(2)
    for session in range(2):
        rows = {j: task_of(table, session, j) | {"i2t_mrr": Score(40 + 20 * j, 10)} for j in range(2)}
        if session == 1:  # an earlier version measured the session before
            rows = {j: row | {"r_sum": Score(300, 10), "alignment": Score(1.5 - j, 10)} for j, row in rows.items()}
        grown.append(rows)
    found = PROTOCOL.summary(grown)
    assert {key: found[key] for key in found.keys() - PROTOCOL.summary(table).keys()} == {
        "average_i2t_mrr": 45, "last_i2t_mrr": 50, "last_alignment": 1,
    }  # fmt: skip


def test_phases_of_one_domain_after_another_have_fewer_domains_than_sessions(table: ScoreTable) -> None:
    last = {j: task_of(table, 1, j) for j in range(2)}
    before = PROTOCOL.summary(table)
    table.append(last)  # a third session, still on the second domain
    after = PROTOCOL.summary(table)
    assert {key: after[key] for key in ("transfer", "last")} == {key: before[key] for key in ("transfer", "last")}
    assert after["last_mean_recall"] == before["last_mean_recall"]
