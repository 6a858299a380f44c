"""Image-text retrieval over domains: recall at 1, 5, 10 from images to texts (i2t) and back (t2i), and their mean."""

from __future__ import annotations

from everclip.metrics.matrix import per_task_metrics
from everclip.metrics.protocol import Measure, Protocol
from everclip.metrics.scores import ScoreTable

ENTRY = "mean_recall"
RECALLS = tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """Mean recall and the six recalls in %, each as the mean over the domains seen so far."""
    seen = range(table.latest + 1)
    return {name: table.mean(name, seen) for name in (ENTRY, *RECALLS)}


def summary(table: ScoreTable) -> dict[str, float]:
    """`per_task_metrics` of mean recall; of each recall `average_<recall>` and `last_<recall>`, defined as there."""
    sessions = len(table)
    numbers = per_task_metrics(ENTRY, table.matrix(ENTRY)[:, :sessions])
    for name in RECALLS:
        of_recall = per_task_metrics(name, table.matrix(name)[:, :sessions])
        numbers |= {key: value for key, value in of_recall.items() if key.endswith(name)}
    return numbers


PROTOCOL = Protocol(
    name="retrieval",
    entry=ENTRY,
    title="mean recall over all seen domains (%)",
    session=session_numbers,
    summary=summary,
    line=(
        Measure(ENTRY, "mean recall"),
        Measure("i2t_r1", "i2t R@1"),
        Measure("t2i_r1", "t2i R@1"),
    ),
    columns=(
        Measure(f"average_{ENTRY}", "average"),
        Measure("last_i2t_r1", "i2t R@1"),
        Measure("last_t2i_r1", "t2i R@1"),
        Measure("forgetting", "forgetting", ""),
    ),
    details=tuple(Measure(f"last_{name}", f"{name[:3]} R@{name[5:]}") for name in RECALLS if not name.endswith("_r1")),
)
