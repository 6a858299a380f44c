"""Base to novel: trained on half of the classes, judged on both halves, each among its own classes."""

from __future__ import annotations

import numpy as np

from everclip.metrics import class_incremental
from everclip.metrics.matrix import Matrix, harmonic_mean
from everclip.metrics.protocol import Measure, Protocol
from everclip.metrics.scores import ScoreTable


def base_to_novel_metrics(accuracy: Matrix, counts: Matrix) -> dict[str, float]:
    """`base_accuracy`, `novel_accuracy`, `harmonic_mean` of one session, in %.

    Args:
        accuracy: (J,) of the trained task, then of tasks that were never trained.
        counts: N (J,); the later tasks are pooled.
    """
    base, novel = float(accuracy[0]), float(np.average(accuracy[1:], weights=counts[1:]))
    return {"base_accuracy": base, "novel_accuracy": novel, "harmonic_mean": harmonic_mean(base, novel)}


def _both(table: ScoreTable) -> dict[str, float]:
    """The two accuracies and their harmonic mean; empty for a method that only scores classes it was trained on."""
    latest = table.matrix("accuracy")[-1]
    return (
        {}
        if len(latest) < 2 or np.isnan(latest).any()
        else base_to_novel_metrics(latest, table.task_counts("accuracy"))
    )


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """`accuracy` of what was trained, and `base_to_novel_metrics`, None where the novel classes were not evaluated."""
    missing = dict.fromkeys(("novel_accuracy", "harmonic_mean"))
    return class_incremental.session_numbers(table) | missing | _both(table)


def summary(table: ScoreTable) -> dict[str, float]:
    """The numbers of class-incremental learning on the base classes, and `base_to_novel_metrics`."""
    return class_incremental.summary(table) | _both(table)


HARMONIC_MEAN = Measure("harmonic_mean", "H")
PROTOCOL = Protocol(
    name="base_to_novel",
    entry="accuracy",
    title="accuracy on base classes (%)",
    session=session_numbers,
    summary=summary,
    line=(Measure("base_accuracy", "base"), Measure("novel_accuracy", "novel"), HARMONIC_MEAN),
    columns=(Measure("base_accuracy", "base"), Measure("novel_accuracy", "novel"), HARMONIC_MEAN),
)
