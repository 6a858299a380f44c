"""Ordering of pictures: rank and linear correlation of scores with values in %, mean absolute error in their unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everclip.metrics.matrix import per_task_summary
from everclip.metrics.protocol import Measure, Protocol
from everclip.metrics.scores import ScoreTable, seen_means

ENTRY = "srcc"
OTHERS = ("plcc", "mae")
Numbers = NDArray[np.float64]


def plcc(scores: Numbers, values: Numbers) -> float:
    """Pearson's linear correlation in [-1, 1]; 0 where all scores or all values are the same."""
    a, b = scores - scores.mean(), values - values.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def ranks(numbers: Numbers) -> Numbers:
    """Their places in order, from 1; equal numbers have the mean of their places."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    places: Numbers = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return places


def srcc(scores: Numbers, values: Numbers) -> float:
    """Spearman's rank correlation: Pearson's of the ranks."""
    return plcc(ranks(scores), ranks(values))


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """Each score as the mean over the tasks seen so far."""
    return seen_means(table, (ENTRY, *OTHERS))


def summary(table: ScoreTable) -> dict[str, float]:
    """`per_task_metrics` of SRCC; of the others `average_<name>` and `last_<name>`, defined as there."""
    return per_task_summary(table, ENTRY, OTHERS)


PROTOCOL = Protocol(
    name="ordering",
    entry=ENTRY,
    title="SRCC, mean over all seen tasks (%)",
    session=session_numbers,
    summary=summary,
    line=(Measure(ENTRY, "SRCC"), Measure("plcc", "PLCC"), Measure("mae", "MAE", "low")),
    columns=(
        Measure(f"average_{ENTRY}", "average"),
        Measure("last_plcc", "PLCC"),
        Measure("last_mae", "MAE", "low"),
        Measure("forgetting", "forgetting", ""),
    ),
)
