"""What single predictions add up to: accuracy by class, confusions, calibration, and what a later model changes.

Legend: N samples; labels and predictions are class ids.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """What a model takes samples for.

    Attributes:
        labels: (N,) what they are.
        predicted: (N,) the most probable class of each.
        confidence: (N,) its probability.
    """

    labels: Ids
    predicted: Ids
    confidence: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the class is the label."""
        return self.labels == self.predicted


@dataclass(frozen=True)
class Bin:
    """The samples whose confidence lies above `low`, up to `high`: how many, their mean confidence and accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def class_accuracies(found: Predictions) -> dict[int, tuple[int, int]]:
    """By class, in order: how many of its samples are recognised, and how many there are."""
    counts = Counter(found.labels.tolist())
    right = Counter(found.labels[found.right].tolist())
    return {label: (right[label], counts[label]) for label in sorted(counts)}


def confusions(found: Predictions) -> Counter[tuple[int, int]]:
    """How many samples of a class (first) are taken for another (second)."""
    wrong = ~found.right
    return Counter(zip(found.labels[wrong].tolist(), found.predicted[wrong].tolist(), strict=True))


def calibration(found: Predictions, bins: int = 15) -> list[Bin]:
    """Bins of equal width over the confidences, without empty ones."""
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, found.confidence, side="left") - 1, 0, bins - 1)
    rows = []
    for place in np.unique(places).tolist():
        own = places == place
        means = float(found.confidence[own].mean()), float(found.right[own].mean())
        rows.append(Bin(float(edges[place]), float(edges[place + 1]), int(own.sum()), *means))
    return rows


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error: the mean distance of confidence from accuracy, over the samples of all bins.

    Source: arXiv 1706.04599, equation 3.
    """
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.confidence - each.accuracy) for each in bins) / total


def changes(before: Predictions, after: Predictions) -> tuple[Ids, Ids]:
    """Positions of the samples that are recognised only after (gained), and only before (lost)."""
    return np.flatnonzero(~before.right & after.right), np.flatnonzero(before.right & ~after.right)
