"""Two settings over the same seeds: the two-sided paired t-test, by Student's distribution as a finite sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

ROUNDING = 1e-12  # of the largest value: differences that vary less are the same


@dataclass(frozen=True)
class Paired:
    """How much the second values lie above the first.

    Attributes:
        n: pairs.
        difference: mean of second - first.
        low: lower end of the interval that holds the true mean with the asked confidence; None where it cannot be told,
            with a single pair or differences that do not vary.
        high: upper end.
        p: chance of a mean at least as far from 0 if there were no difference, two-sided; None likewise.
    """

    n: int
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def compare(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Paired:
    """The paired t-test of values that belong together one by one.

    Raises:
        ValueError: there are none, or more of one than of the other.
    """
    differences = [after - before for before, after in zip(first, second, strict=True)]
    if not differences:
        raise ValueError("there is nothing to compare")
    n, mean = len(differences), fmean(differences)
    spread = stdev(differences) if n > 1 else 0.0
    if spread <= ROUNDING * max(map(abs, (*first, *second))):
        return Paired(n, mean)
    error = spread / math.sqrt(n)
    reach = student_quantile(confidence, n - 1) * error
    return Paired(n, mean, mean - reach, mean + reach, max(0.0, 1 - student_within(mean / error, n - 1)))


def student_within(t: float, freedom: int) -> float:
    """Chance that Student's t with so many degrees of freedom lies between -t and t; exact but for rounding (1e-15).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 (odd) and 26.7.4 (even).
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= (power - 1) / power * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def student_quantile(chance: float, freedom: int) -> float:
    """The t for which `student_within` is `chance`, in [0, 1)."""
    low, high = 0.0, 1.0
    while student_within(high, freedom) < chance:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if student_within(middle, freedom) < chance else (low, middle)
    return high
