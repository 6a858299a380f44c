"""Multi-domain learning: one data set after the other, all of them evaluated after every session."""

from __future__ import annotations

import numpy as np

from everclip.metrics import class_incremental
from everclip.metrics.matrix import Matrix
from everclip.metrics.protocol import HELD_OUT_IN_ALL, Measure, Protocol
from everclip.metrics.scores import ScoreTable


def multi_domain_metrics(accuracy: Matrix) -> dict[str, float]:
    """`transfer`, `avg`, `last` of a multi-domain run, in %; those that the evaluated entries give.

    Args:
        accuracy: A (T, J) with J <= T, NaN where a domain was not evaluated.

    Transfer of task j >= 1 is the mean of A[t, j] over t < j; `avg` the mean over all rows; `last` the last row; each
    averaged over tasks (ZSCL, arXiv 2303.06628, section 5).
    """
    means = {
        "transfer": [accuracy[:j, j].mean() for j in range(1, min(accuracy.shape))],
        "avg": accuracy.mean(axis=0),
        "last": accuracy[-1],
    }
    return {name: float(np.mean(values)) for name, values in means.items() if len(values) and np.isfinite(values).all()}


def summary(table: ScoreTable) -> dict[str, float]:
    """The numbers of class-incremental learning, and once every domain was learnt those above.

    A method that cannot score classes it was not trained on is not evaluated on later domains: it has `last` only.
    """
    whole = len(table) == table.num_tasks
    return class_incremental.summary(table) | (multi_domain_metrics(table.matrix("accuracy")) if whole else {})


PROTOCOL = Protocol(
    name="multi_domain",
    entry="accuracy",
    title="accuracy over all seen domains (%)",
    session=class_incremental.session_numbers,
    summary=summary,
    line=class_incremental.PROTOCOL.line,
    columns=(Measure("transfer", "Transfer"), Measure("avg", "Avg."), Measure("last", "Last")),
    details=(Measure("forgetting", "forgetting", ""), *HELD_OUT_IN_ALL),
)
