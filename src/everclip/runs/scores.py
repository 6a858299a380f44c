"""The scores that session records hold, also those of older versions: the only place that knows how they are stored."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from everclip.metrics.protocol import Protocol, read
from everclip.metrics.scores import Score, ScoreTable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Record = Mapping[str, Any]


def stored(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Scores by name, as the row of a task in a session's record holds them."""
    return {name: asdict(score) for name, score in scores.items()}


def scores_of(row: Record) -> dict[str, Score]:
    """The scores in a task's row, by name; older rows have `accuracy` and `count` beside each other."""
    if "scores" in row:
        return {name: Score(score["value"], score["count"]) for name, score in row["scores"].items()}
    return {"accuracy": Score(100 * row["correct"] / row["count"], row["count"])}


def by_task(record: Record) -> dict[int, dict[str, Score]]:
    """The scores of a session by task and name."""
    return {int(row["task"]): scores_of(row) for row in record["tasks"]}


def table_of(records: Sequence[Record], num_tasks: int | None = None) -> ScoreTable:
    """The scores of all sessions.

    Args:
        records: of `sessions.jsonl`.
        num_tasks: None for those that were evaluated at all.
    """
    rows = [by_task(record) for record in records]
    if num_tasks is None:
        num_tasks = 1 + max((task for row in rows for task in row), default=-1)
    table = ScoreTable(num_tasks)
    for row in rows:
        table.append(row)
    return table


def protocol_of(run: Record, summary: Record) -> Protocol:
    """The protocol of a run by its `run.json`; older versions did not say, but their `summary.json` tells.

    Raises:
        ConfigError: a protocol that this version does not know.
    """
    if "protocol" in run:
        return read(str(run["protocol"]))
    told = {"transfer": "multi_domain", "novel_accuracy": "base_to_novel"}
    return read(next((name for key, name in told.items() if key in summary), "class_incremental"))


def confusion_of(records: Sequence[Record]) -> NDArray[np.int64] | None:
    """Test samples (S, S) after the last session, by the session of their class and of the one they were taken for.

    None where that was not recorded, or where no session but the first has classes of its own.
    """
    tasks = [row for row in records[-1]["tasks"] if row["task"] <= records[-1]["index"]]
    if not tasks or any("predicted" not in row for row in tasks):
        return None
    if len(tasks) > 1 and all(len(row["predicted"]) == 1 for row in tasks):
        return None
    import numpy as np

    counts = np.zeros((len(tasks), len(tasks)), dtype=np.int64)
    for line, row in zip(counts, tasks, strict=True):
        line[: len(row["predicted"])] = row["predicted"]
    return counts


def matrix_file(entry: str) -> str:
    """Name of the file with the matrix of an entry."""
    return f"{entry}_matrix.csv"


def heads(num_tasks: int, entry: str) -> dict[str, str]:
    """First lines of the files that scores make, by file name: matrix and counts of the entry, and all scores."""
    tasks = _csv([["session", *(f"task_{task:02d}" for task in range(num_tasks))]])
    scores = _csv([["session", "task", "score", "value", "count"]])
    return {matrix_file(entry): tasks, "counts.csv": tasks, "scores.csv": scores}


def lines_of(session: int, record: Record, num_tasks: int, entry: str) -> dict[str, str]:
    """What a session adds to these files: a row of entries, one of counts, and a line for every score."""
    tasks = by_task(record)
    columns = [tasks.get(task, {}).get(entry) for task in range(num_tasks)]
    values = ["" if score is None else repr(float(score.value)) for score in columns]
    counts = [0 if score is None else score.count for score in columns]
    scores = [(task, name, score) for task, own in sorted(tasks.items()) for name, score in own.items()]
    return {
        matrix_file(entry): _csv([[session, *values]]),
        "counts.csv": _csv([[session, *counts]]),
        "scores.csv": _csv([session, task, name, repr(score.value), score.count] for task, name, score in scores),
    }


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
