"""Generalisation: trained on one data set, judged by it and by others that it never trains for."""

from __future__ import annotations

from everclip.metrics import class_incremental
from everclip.metrics.protocol import Measure, Protocol
from everclip.metrics.scores import ScoreTable


def generalisation_metrics(table: ScoreTable) -> dict[str, float]:
    """`source_accuracy` of the first task; `target_accuracy`, the mean over the others, each weighing the same; in %.

    Without the second for a method that only scores classes it was trained on, where not every target has such.
    """
    targets = range(1, table.num_tasks)
    means = {"source_accuracy": table.mean("accuracy", [0])}
    if all(count for count in table.counts("accuracy")[-1, 1:]):
        means["target_accuracy"] = table.mean("accuracy", targets)
    return {name: value for name, value in means.items() if value is not None}


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """`accuracy` of what was trained, and `generalisation_metrics`, None where a target was not evaluated."""
    own = class_incremental.session_numbers(table)["accuracy"]
    return {"accuracy": own, "target_accuracy": None, **generalisation_metrics(table)}


def summary(table: ScoreTable) -> dict[str, float]:
    """The numbers of class-incremental learning on the source, and `generalisation_metrics`."""
    return class_incremental.summary(table) | generalisation_metrics(table)


PROTOCOL = Protocol(
    name="generalisation",
    entry="accuracy",
    title="accuracy on the source (%)",
    session=session_numbers,
    summary=summary,
    line=(Measure("source_accuracy", "source"), Measure("target_accuracy", "targets")),
    columns=(Measure("source_accuracy", "source"), Measure("target_accuracy", "targets")),
)
