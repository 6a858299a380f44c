"""The scores that session records hold, also those of older versions: the only place that knows how they are stored."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip.metrics.protocol import Protocol, read
from everclip.metrics.scores import Score, ScoreTable

Record = Mapping[str, Any]


def stored(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Scores by name, as the row of a task in a session's record holds them."""
    return {name: asdict(score) for name, score in scores.items()}


def scores_of(row: Record) -> dict[str, Score]:
    """The scores in a task's row, by name; older rows have `accuracy` and `count` beside each other."""
    if "scores" in row:
        return {name: Score(score["value"], score["count"]) for name, score in row["scores"].items()}
    return {"accuracy": Score(100 * row["correct"] / row["count"], row["count"])}


def table_of(records: Sequence[Record], num_tasks: int | None = None) -> ScoreTable:
    """The scores of all sessions.

    Args:
        records: of `sessions.jsonl`.
        num_tasks: None for those that were evaluated at all.
    """
    rows = [{int(row["task"]): scores_of(row) for row in record["tasks"]} for record in records]
    if num_tasks is None:
        num_tasks = 1 + max((task for by_task in rows for task in by_task), default=-1)
    table = ScoreTable(num_tasks)
    for by_task in rows:
        table.append(by_task)
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
    counts = np.zeros((len(tasks), len(tasks)), dtype=np.int64)
    for line, row in zip(counts, tasks, strict=True):
        line[: len(row["predicted"])] = row["predicted"]
    return counts


def files_of(table: ScoreTable, entry: str) -> dict[str, str]:
    """By file name: matrix and counts of the entry by session and task, and every score in a line of its own."""
    head = ["session", *(f"task_{task:02d}" for task in range(table.num_tasks))]
    values = [["" if np.isnan(value) else repr(float(value)) for value in row] for row in table.matrix(entry)]
    counts = [[str(int(count)) for count in row] for row in table.counts(entry)]
    scores = [[session, task, name, repr(s.value), s.count] for session, task, name, s in table.rows()]
    return {
        f"{entry}_matrix.csv": _csv(head, ([session, *row] for session, row in enumerate(values))),
        "counts.csv": _csv(head, ([session, *row] for session, row in enumerate(counts))),
        "scores.csv": _csv(["session", "task", "score", "value", "count"], scores),
    }


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *rows])
    return buffer.getvalue()
