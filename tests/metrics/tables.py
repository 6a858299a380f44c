"""Tables of scores for worked examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from everclip.metrics.scores import Score, ScoreTable


def table_of(name: str, matrix: ArrayLike, counts: ArrayLike) -> ScoreTable:
    """One score by session and task; NaN where it was not evaluated.

    Args:
        name: of the score.
        matrix: (T, J).
        counts: (J,).
    """
    values, sizes = np.asarray(matrix, dtype=float), np.asarray(counts)
    table = ScoreTable(values.shape[1])
    for row in values:
        table.append(
            {
                task: {name: Score(float(value), int(sizes[task]))}
                for task, value in enumerate(row)
                if not np.isnan(value)
            }
        )
    return table
