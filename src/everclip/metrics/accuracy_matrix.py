"""The accuracy matrix and everything that is computed from it.

`A[t, j]` is the accuracy in % on task j after session t; NaN where it was not evaluated, never 0. `N[j]` is the number
of test pictures of task j. Where the field uses one word for several numbers, each has its own name
`<metric>/<variant>`; the plain name is the definition of the guide, and a test holds all of them to one worked example.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def session_accuracy(accuracy: Matrix, counts: Matrix) -> Matrix:
    """acc_t (T,): accuracy in % over the pooled test pictures of the tasks up to t.

    Args:
        accuracy: A (T, J) with J >= T.
        counts: N (J,).
    """
    return np.array([np.average(row[: t + 1], weights=counts[: t + 1]) for t, row in enumerate(accuracy)])


def forgetting(accuracy: Matrix) -> Matrix:
    """Per task j < T (T-1,): best accuracy before the last session minus the last."""
    last = len(accuracy) - 1
    return np.array([np.max(accuracy[j:last, j]) - accuracy[last, j] for j in range(last)])


def backward_transfer(accuracy: Matrix) -> Matrix:
    """Per task j < T (T-1,): last accuracy minus the accuracy right after its own session."""
    last = len(accuracy) - 1
    return np.array([accuracy[last, j] - accuracy[j, j] for j in range(last)])


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


def class_incremental_metrics(accuracy: Matrix, counts: Matrix) -> dict[str, float]:
    """All scalar metrics of a class-incremental run, in % (differences in points).

    Args:
        accuracy: A (T, T), lower triangle filled.
        counts: N (T,).

    Returns:
        The metrics by name:
        `average_accuracy` = `average/micro_curve`: mean over sessions of acc_t (PILOT, C3Box, FSCIL tables);
        `average/pooled`: correct over tested, pooled over all evaluations (cpe-clip's AvgAcc);
        `average/macro_curve`: mean over sessions of the mean over tasks (LibContinual);
        `average/macro_last`: mean over tasks after the last session (Mammoth, Renate);
        `last_accuracy` = acc_T; `performance_drop` = acc_0 - acc_T;
        `forgetting` = `forgetting/max`: mean of `forgetting()` (Mammoth, PILOT, Renate);
        `forgetting/first`: accuracy after a task's own session minus last (Avalanche);
        `forgetting/all_sessions`: mean over all sessions t and tasks j < t of best before t minus A[t, j] (cpe-clip);
        `forgetting/lagged`: `lagged_forgetting()` (LibContinual at the last session);
        `forgetting/lagged_mean`: mean of that over sessions (LibContinual "overall");
        `backward_transfer`: mean of `backward_transfer()` (Avalanche, Mammoth);
        `backward_transfer/lagged`: `lagged_backward_transfer()` (LibContinual);
        `harmonic_mean`: of task 0 and of the pooled later tasks, after the last session (absent for one session).
    """
    sessions = len(accuracy)
    curve = session_accuracy(accuracy, counts)
    weights = np.array([counts[: t + 1].sum() for t in range(sessions)])
    rows = np.array([np.mean(row[: t + 1]) for t, row in enumerate(accuracy)])
    metrics = {
        "average_accuracy": curve.mean(),
        "average/micro_curve": curve.mean(),
        "average/pooled": np.average(curve, weights=weights),
        "average/macro_curve": rows.mean(),
        "average/macro_last": rows[-1],
        "last_accuracy": curve[-1],
        "performance_drop": curve[0] - curve[-1],
    }
    if sessions > 1:
        transfer = backward_transfer(accuracy)
        per_session = [forgetting(accuracy[: t + 1, : t + 1]) for t in range(1, sessions)]
        novel = np.average(accuracy[-1, 1:sessions], weights=counts[1:sessions])
        metrics |= {
            "forgetting": forgetting(accuracy).mean(),
            "forgetting/max": forgetting(accuracy).mean(),
            "forgetting/first": -transfer.mean(),
            "forgetting/all_sessions": np.concatenate(per_session).mean(),
            "forgetting/lagged": lagged_forgetting(accuracy),
            "forgetting/lagged_mean": np.mean([lagged_forgetting(accuracy[:t, :t]) for t in range(1, sessions + 1)]),
            "backward_transfer": transfer.mean(),
            "backward_transfer/lagged": lagged_backward_transfer(accuracy),
            "harmonic_mean": harmonic_mean(accuracy[-1, 0], novel),
        }
    return {name: float(value) for name, value in metrics.items()}


def base_to_novel_metrics(accuracy: Matrix, counts: Matrix) -> dict[str, float]:
    """`base_accuracy`, `novel_accuracy`, `harmonic_mean` of one session, in %.

    Args:
        accuracy: (J,) of the trained task, then of tasks that were never trained.
        counts: N (J,); the later tasks are pooled.
    """
    base, novel = float(accuracy[0]), float(np.average(accuracy[1:], weights=counts[1:]))
    return {"base_accuracy": base, "novel_accuracy": novel, "harmonic_mean": harmonic_mean(base, novel)}


def multi_domain_metrics(accuracy: Matrix) -> dict[str, float]:
    """`transfer`, `avg`, `last` of a multi-domain run, in %.

    Args:
        accuracy: A (T, T), all entries filled.

    Transfer of task j >= 1 is the mean of A[t, j] over t < j; `avg` the mean over all rows; `last` the last row; each
    averaged over tasks (ZSCL, arXiv 2303.06628, section 5).
    """
    above = [accuracy[:j, j].mean() for j in range(1, len(accuracy))]
    metrics = {"avg": float(accuracy.mean(axis=0).mean()), "last": float(accuracy[-1].mean())}
    return {"transfer": float(np.mean(above)), **metrics} if above else metrics


class AccuracyMatrix:
    """Accuracy per session and task with the number of pictures behind each entry.

    Args:
        num_tasks: columns; rows grow with `append`.
    """

    def __init__(self, num_tasks: int) -> None:
        self.accuracy: Matrix = np.empty((0, num_tasks))
        self.counts: Matrix = np.empty((0, num_tasks))

    def append(self, correct: dict[int, int], counts: dict[int, int]) -> None:
        """Adds a session's row from correct and tested pictures per task.

        Raises:
            ValueError: a task was tested on another number of pictures than before.
        """
        row = np.full(self.accuracy.shape[1], np.nan)
        tested = np.zeros(self.accuracy.shape[1])
        for task, count in counts.items():
            row[task] = 100 * correct[task] / count
            tested[task] = count
            before = self.counts[:, task]
            if np.any((before > 0) & (before != count)):
                raise ValueError(f"task {task} was tested on {count} pictures, earlier on {before.max():.0f}")
        self.accuracy = np.vstack([self.accuracy, row])
        self.counts = np.vstack([self.counts, tested])

    @property
    def task_counts(self) -> Matrix:
        """N (J,): pictures per task, 0 for a task not tested yet."""
        return self.counts.max(axis=0) if len(self.counts) else np.zeros(self.accuracy.shape[1])

    def metrics(self) -> dict[str, float]:
        """The metrics that the filled part allows, by name."""
        sessions = len(self.accuracy)
        square = self.accuracy[:, :sessions]
        metrics = class_incremental_metrics(square, self.task_counts[:sessions])
        if sessions == 1 and self.accuracy.shape[1] > 1 and not np.isnan(self.accuracy).any():
            metrics |= base_to_novel_metrics(self.accuracy[0], self.task_counts)
        if not np.isnan(self.accuracy).any() and sessions == self.accuracy.shape[1]:
            metrics |= multi_domain_metrics(self.accuracy)
        return metrics
