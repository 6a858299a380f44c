"""What is recorded of a session and of a whole run, from counts to JSON-like facts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip.loggers.base import Sample
from everclip.methods.base import Method
from everclip.runs.folder import matrix_of
from everclip.training.evaluation import Evaluation
from everclip.types import Prepare, Session, TaskSequence


def task_rows(evaluation: Evaluation, sequence: TaskSequence) -> list[dict[str, Any]]:
    """One entry per evaluated task: number, name, accuracy in %, correct and tested pictures, guesses by session."""
    rows = []
    for task, verdict in evaluation.verdicts.items():
        score = verdict.scores["accuracy"]
        facts = {"accuracy": score.value, "correct": round(score.value * score.count / 100), "count": score.count}
        rows.append({"task": task, "name": sequence.tasks[task].name, **facts, **verdict.facts})
    return rows


def record_of(session: Session, evaluation: Evaluation, sequence: TaskSequence, method: Method) -> dict[str, Any]:
    """The line of `sessions.jsonl` about an evaluated session, but for what its training and evaluation cost."""
    tasks = task_rows(evaluation, sequence)
    seen = [task for task in tasks if task["task"] <= session.index]
    novel = [task for task in seen if task["task"] > 0]

    def pooled(chosen: list[dict[str, Any]]) -> float | None:
        return 100 * sum(t["correct"] for t in chosen) / sum(t["count"] for t in chosen) if chosen else None

    return {
        "index": session.index,
        "name": session.name,
        "new_classes": len(session.new),
        "seen_classes": len(session.seen),
        "train_images": len(session.train),
        "accuracy": pooled(seen),
        "base_accuracy": pooled(seen[:1]),
        "novel_accuracy": pooled(novel),
        "zero_shot_accuracy": evaluation.held_out,
        "tasks": tasks,
        "guesses": [{"task": shown.task, "image": shown.sample, **asdict(shown.guess)} for shown in evaluation.guesses],
        "trainable_parameters": method.num_trainable(),
        "total_parameters": sum(p.numel() for p in method.parameters()),
    }


def scalars_of(records: list[dict[str, Any]], num_tasks: int) -> dict[str, float]:
    """The numbers about the last of these sessions, and the metrics so far, by name."""
    numbers = {name: value for name, value in records[-1].items() if isinstance(value, int | float) and name != "index"}
    return numbers | matrix_of(records, num_tasks).metrics()


def samples_of(record: dict[str, Any], sequence: TaskSequence, resize: Prepare) -> list[Sample]:
    """The guesses of a session with their pictures as the backbone sees them."""

    def picture(task: int, image: int) -> NDArray[np.uint8]:
        return sequence.tasks[task].samples.read([image], resize).images[0].permute(1, 2, 0).numpy()

    return [
        Sample(picture(guess["task"], guess["image"]), guess["label"], tuple(map(tuple, guess["names"])))
        for guess in record["guesses"]
    ]


def summary_of(records: list[dict[str, Any]], num_tasks: int) -> dict[str, Any]:
    """The content of `summary.json`."""
    first, last = records[0], records[-1]
    return matrix_of(records, num_tasks).metrics() | {
        "zero_shot_before": first["zero_shot_before"],
        "zero_shot_after": last["zero_shot_accuracy"],
        "accuracy_per_session": [record["accuracy"] for record in records],
        "sessions": len(records),
        "train_seconds": round(sum(record["train_seconds"] for record in records), 3),
        "eval_seconds": round(sum(record["eval_seconds"] for record in records), 3),
        "peak_memory_mb": max(record["peak_memory_mb"] for record in records),
        "trainable_parameters": last["trainable_parameters"],
        "total_parameters": last["total_parameters"],
    }
