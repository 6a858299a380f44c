"""Dense prediction: mean intersection over union (mIoU) of each task in %."""

from __future__ import annotations

from everclip.metrics.matrix import per_task_metrics
from everclip.metrics.protocol import Measure, Protocol
from everclip.metrics.scores import ScoreTable

ENTRY = "miou"


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """Mean of mIoU over the tasks seen so far; of task 0, and of later ones (None after the first session)."""
    seen = range(table.latest + 1)
    return {
        ENTRY: table.mean(ENTRY, seen),
        f"base_{ENTRY}": table.mean(ENTRY, seen[:1]),
        f"novel_{ENTRY}": table.mean(ENTRY, seen[1:]),
    }


def summary(table: ScoreTable) -> dict[str, float]:
    """`per_task_metrics` of mIoU."""
    return per_task_metrics(ENTRY, table.matrix(ENTRY)[:, : len(table)])


PROTOCOL = Protocol(
    name="dense",
    entry=ENTRY,
    title="mIoU over all seen tasks (%)",
    session=session_numbers,
    summary=summary,
    line=(Measure(ENTRY, "mIoU"), Measure(f"base_{ENTRY}", "base"), Measure(f"novel_{ENTRY}", "novel")),
    columns=(Measure(f"average_{ENTRY}", "average"), Measure("performance_drop", "PD", "low")),
    details=(Measure("forgetting", "forgetting", ""),),
)
