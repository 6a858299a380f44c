from __future__ import annotations

import math

import pytest
from scipy import stats

from everclip.metrics.paired import Paired, compare, student_quantile, student_within

FREEDOM = [1, 2, 3, 4, 5, 8, 9, 30, 101]


@pytest.mark.parametrize("freedom", FREEDOM)
def test_students_distribution_is_scipys(freedom: int) -> None:
    for t in (0.0, 0.1, 1.0, 2.5, 12.0):
        assert student_within(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-13)
        assert student_within(-t, freedom) == student_within(t, freedom)
    for chance in (0.0, 0.5, 0.95, 0.999):
        assert student_quantile(chance, freedom) == pytest.approx(stats.t.ppf((1 + chance) / 2, freedom), abs=1e-9)


def test_three_seeds_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); two degrees of freedom: P(|T| < t) = t / sqrt(2 + t^2).
    found = compare([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], confidence=0.9)
    t = 2 * math.sqrt(3)
    reach = math.sqrt(2 * 0.81 / (1 - 0.81)) / math.sqrt(3)
    assert (found.n, found.difference) == (3, 2.0)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert (found.low, found.high) == (pytest.approx(2 - reach), pytest.approx(2 + reach))


def test_only_differences_within_pairs_count() -> None:
    before, after = [50.0, 70.0, 90.0, 60.0], [51.0, 70.5, 91.5, 60.5]
    assert compare(before, after).p == pytest.approx(stats.ttest_rel(after, before).pvalue)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param([1.0], [4.0], id="one pair"),
        pytest.param([1.0, 2.0], [4.0, 5.0], id="the same difference"),
        pytest.param([0.1, 0.3], [3.1, 3.3], id="but for rounding"),
    ],
)
def test_without_variation_there_is_nothing_to_test(first: list[float], second: list[float]) -> None:
    assert compare(first, second) == Paired(len(first), pytest.approx(3.0))


def test_nothing_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="nothing"):
        compare([], [])
