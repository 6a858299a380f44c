"""Class-incremental learning: accuracy in % over all classes seen so far.

Where the field uses one word for several numbers, each has its own name `<metric>/<variant>`; the plain name is the
definition of the guide, and a test holds all of them to one worked example.
"""

from __future__ import annotations

import numpy as np

from everclip.metrics.matrix import (
    Matrix,
    backward_transfer,
    forgetting,
    harmonic_mean,
    lagged_backward_transfer,
    lagged_forgetting,
    session_accuracy,
)
from everclip.metrics.protocol import HELD_OUT, HELD_OUT_IN_ALL, Measure, Protocol
from everclip.metrics.scores import ScoreTable


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


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """Accuracy in % over the pooled test pictures of the tasks up to the latest session; of task 0, and of later ones.

    `novel_accuracy` is None after the first session.
    """
    seen = range(table.latest + 1)
    return {
        "accuracy": table.pooled("accuracy", seen),
        "base_accuracy": table.pooled("accuracy", seen[:1]),
        "novel_accuracy": table.pooled("accuracy", seen[1:]),
    }


def summary(table: ScoreTable) -> dict[str, float]:
    """`class_incremental_metrics` of the tasks up to the latest session."""
    sessions = len(table)
    counts = table.task_counts("accuracy")[:sessions]
    return class_incremental_metrics(table.matrix("accuracy")[:, :sessions], counts)


PROTOCOL = Protocol(
    name="class_incremental",
    entry="accuracy",
    title="accuracy over all seen classes (%)",
    session=session_numbers,
    summary=summary,
    line=(
        Measure("accuracy", "accuracy"),
        Measure("base_accuracy", "base"),
        Measure("novel_accuracy", "novel"),
        HELD_OUT,
    ),
    columns=(Measure("average_accuracy", "average"), Measure("performance_drop", "PD", "low")),
    details=(
        Measure("forgetting", "forgetting", ""),
        Measure("harmonic_mean", "harmonic mean"),
        *HELD_OUT_IN_ALL,
    ),
)
