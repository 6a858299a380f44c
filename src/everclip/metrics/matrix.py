"""Numbers that follow from a matrix of results.

`A[t, j]` is the value in % on task j after session t (accuracy, recall, ...); NaN where it was not evaluated, never 0.
`N[j]` is the number of test samples of task j.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from everclip.metrics.scores import ScoreTable

Matrix = NDArray[np.float64]


def session_accuracy(accuracy: Matrix, counts: Matrix) -> Matrix:
    """acc_t (T,): accuracy in % over the pooled test pictures of the tasks up to t.

    Args:
        accuracy: A (T, J) with J >= T.
        counts: N (J,).
    """
    return np.array([np.average(row[: t + 1], weights=counts[: t + 1]) for t, row in enumerate(accuracy)])


def forgetting(accuracy: Matrix) -> Matrix:
    """Per task j < T (T-1,), or of as many as there are: best accuracy before the last session minus the last."""
    last = len(accuracy) - 1
    return np.array([np.max(accuracy[j:last, j]) - accuracy[last, j] for j in range(min(last, accuracy.shape[1]))])


def backward_transfer(accuracy: Matrix) -> Matrix:
    """Per task j < T (T-1,), or of as many as there are: last accuracy minus that right after its own session."""
    last = len(accuracy) - 1
    return np.array([accuracy[last, j] - accuracy[j, j] for j in range(min(last, accuracy.shape[1]))])


def lagged_forgetting(accuracy: Matrix) -> float:
    """LibContinual's forgetting: first minus last accuracy of all tasks but the last two, over T - 1; 0 for T < 3."""
    last = len(accuracy) - 1
    return sum(accuracy[j, j] - accuracy[last, j] for j in range(last - 1)) / last if last > 1 else 0.0


def lagged_backward_transfer(accuracy: Matrix) -> float:
    """LibContinual's backward transfer: A[t, j] - A[j, j] summed over j < t - 1, over T (T - 1) / 2; 0 for T < 3."""
    sessions = len(accuracy)
    changes = [accuracy[t, j] - accuracy[j, j] for t in range(2, sessions) for j in range(t - 1)]
    return 2 * sum(changes) / (sessions * (sessions - 1)) if changes else 0.0


def harmonic_mean(base: float, novel: float) -> float:
    """2bn / (b + n) of base and novel accuracy in %; 0 if both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def per_task_metrics(entry: str, matrix: Matrix) -> dict[str, float]:
    """What follows from a matrix in which every task weighs the same, in % (differences in points).

    Args:
        entry: name of the score.
        matrix: A (T, T), lower triangle filled; fewer columns where later sessions train for no task of their own.

    Returns:
        The metrics by name: `average_<entry>`, mean over sessions of the mean over the tasks seen so far;
        `last_<entry>`, that mean after the last session; `performance_drop`, the first minus the last;
        `forgetting` and `backward_transfer`, means over tasks (absent for one session).
    """
    rows = np.array([np.mean(row[: t + 1]) for t, row in enumerate(matrix)])
    metrics = {
        f"average_{entry}": rows.mean(),
        f"last_{entry}": rows[-1],
        "performance_drop": rows[0] - rows[-1],
    }
    if len(matrix) > 1:
        metrics |= {"forgetting": forgetting(matrix).mean(), "backward_transfer": backward_transfer(matrix).mean()}
    return {name: float(value) for name, value in metrics.items()}


def per_task_summary(table: ScoreTable, entry: str, others: Iterable[str]) -> dict[str, float]:
    """`per_task_metrics` of the entry; of other scores `average_<name>` and `last_<name>`, defined as there."""
    sessions = len(table)
    numbers = per_task_metrics(entry, table.matrix(entry)[:, :sessions])
    for name in others:
        other = per_task_metrics(name, table.matrix(name)[:, :sessions])
        numbers |= {key: value for key, value in other.items() if key.endswith(name)}
    return numbers
