"""Image-to-image search, where it is judged besides: mean average precision and accuracy of the nearest neighbours."""

from __future__ import annotations

from collections.abc import Collection

from everclip.metrics.scores import ScoreTable

MAP, NEAREST = "image_map", "knn_accuracy"


def session_numbers(table: ScoreTable, tasks: Collection[int]) -> dict[str, float]:
    """Mean of both in % over some tasks after the latest session, each weighing the same; nothing if not judged."""
    found = {name: table.mean(name, tasks) for name in (MAP, NEAREST)}
    return {name: value for name, value in found.items() if value is not None}


def summary(table: ScoreTable, tasks: Collection[int]) -> dict[str, float]:
    """The same after the last session, as `last_image_map` and `last_knn_accuracy`."""
    return {f"last_{name}": value for name, value in session_numbers(table, tasks).items()}
