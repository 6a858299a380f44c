"""Domain-incremental learning: the same classes in one domain after the other, all domains evaluated each time."""

from __future__ import annotations

import numpy as np

from everclip.metrics.matrix import per_task_metrics
from everclip.metrics.protocol import HELD_OUT, HELD_OUT_IN_ALL, Measure, Protocol
from everclip.metrics.scores import ScoreTable


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """Mean accuracy in % over the domains up to the latest session, over those before it, and over those to come.

    Every domain weighs the same, however many test pictures it has. None where there is no such domain.
    """
    latest = table.latest
    return {
        "accuracy": table.mean("accuracy", range(latest + 1)),
        "earlier_accuracy": table.mean("accuracy", range(latest)),
        "unseen_accuracy": table.mean("accuracy", range(latest + 1, table.num_tasks)),
    }


def summary(table: ScoreTable) -> dict[str, float]:
    """`per_task_metrics`, whose `last_accuracy` is the "average accuracy" of arXiv 2207.12819, and `forward_transfer`.

    That is the mean accuracy on a domain before its own session, over all domains but the first; given after the last
    session.
    """
    accuracy = table.matrix("accuracy")
    metrics = per_task_metrics("accuracy", accuracy)
    before = [accuracy[:j, j].mean() for j in range(1, len(accuracy))] if len(accuracy) == table.num_tasks else []
    return metrics | ({"forward_transfer": float(np.mean(before))} if before and np.isfinite(before).all() else {})


PROTOCOL = Protocol(
    name="domain_incremental",
    entry="accuracy",
    title="accuracy over the domains so far (%)",
    session=session_numbers,
    summary=summary,
    line=(
        Measure("accuracy", "accuracy"),
        Measure("earlier_accuracy", "earlier domains"),
        Measure("unseen_accuracy", "unseen domains"),
        HELD_OUT,
    ),
    columns=(
        Measure("average_accuracy", "average"),
        Measure("forgetting", "forgetting", ""),
        Measure("forward_transfer", "unseen domains"),
    ),
    details=(Measure("backward_transfer", "backward transfer"), *HELD_OUT_IN_ALL),
)
