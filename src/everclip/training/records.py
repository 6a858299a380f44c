"""What is recorded of a session and of a whole run, from scores to JSON-like facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip.loggers.base import Sample
from everclip.methods.base import Method
from everclip.metrics import image_search
from everclip.metrics.protocol import read as read_protocol
from everclip.metrics.scores import ScoreTable
from everclip.runs.scores import by_task, stored
from everclip.training.evaluation import Evaluation
from everclip.types import Prepare, Session, TaskSequence


def task_rows(evaluation: Evaluation, sequence: TaskSequence) -> list[dict[str, Any]]:
    """One entry per evaluated task: number, name, scores by name, and what its evaluator told besides."""
    return [
        {"task": task, "name": sequence.tasks[task].name, "scores": stored(verdict.scores), **verdict.facts}
        for task, verdict in evaluation.verdicts.items()
    ]


def record_of(
    session: Session,
    evaluation: Evaluation,
    sequence: TaskSequence,
    method: Method,
    earlier: ScoreTable,
) -> dict[str, Any]:
    """The line of `sessions.jsonl` about an evaluated session, but for what its training and evaluation cost.

    Args:
        session: just trained.
        evaluation: after it.
        sequence: of both.
        method: that was evaluated.
        earlier: scores of the sessions before.
    """
    tasks = task_rows(evaluation, sequence)
    if session.index < len(sequence.sessions) - 1:  # what evaluators tell besides grows with the sessions, too
        tasks = [{name: row[name] for name in ("task", "name", "scores")} for row in tasks]
    table = earlier.followed_by(by_task({"tasks": tasks}))
    return {
        "index": session.index,
        "name": session.name,
        "new_classes": len(session.new),
        "seen_classes": len(session.seen),
        "train_images": session.num_samples,
        **read_protocol(sequence.protocol).session(table),
        **image_search.session_numbers(table, sequence.arrived(session.index)),
        "zero_shot_accuracy": evaluation.held_out,
        "tasks": tasks,
        "guesses": [{"task": shown.task, "image": shown.sample, **asdict(shown.guess)} for shown in evaluation.guesses],
        "trainable_parameters": method.num_trainable(),
        "total_parameters": sum(p.numel() for p in method.parameters()),
    }


def scalars_of(record: Mapping[str, Any], table: ScoreTable, sequence: TaskSequence) -> dict[str, float]:
    """The numbers about a session, and what the scores up to it add up to, by name."""
    numbers = {name: value for name, value in record.items() if isinstance(value, int | float) and name != "index"}
    return numbers | read_protocol(sequence.protocol).summary(table)


def samples_of(record: dict[str, Any], sequence: TaskSequence, resize: Prepare) -> list[Sample]:
    """The guesses of a session with their pictures as the backbone sees them."""

    def picture(task: int, image: int) -> NDArray[np.uint8]:
        shown = sequence.tasks[task].samples.read([image], resize).images[0]
        while shown.ndim > 3:  # of several views and frames, those in the middle
            shown = shown[len(shown) // 2]
        return shown.permute(1, 2, 0).numpy()

    return [
        Sample(picture(guess["task"], guess["image"]), guess["label"], tuple(map(tuple, guess["names"])))
        for guess in record["guesses"]
    ]


def summary_of(records: Sequence[Mapping[str, Any]], table: ScoreTable, sequence: TaskSequence) -> dict[str, Any]:
    """The content of `summary.json`."""
    first, last = records[0], records[-1]
    protocol = read_protocol(sequence.protocol)
    return protocol.summary(table) | {
        **image_search.summary(table, sequence.arrived(last["index"])),
        "zero_shot_before": first["zero_shot_before"],
        "zero_shot_after": last["zero_shot_accuracy"],
        f"{protocol.entry}_per_session": [record[protocol.entry] for record in records],
        "sessions": len(records),
        "train_seconds": round(sum(record["train_seconds"] for record in records), 3),
        "eval_seconds": round(sum(record["eval_seconds"] for record in records), 3),
        "peak_memory_mb": max(record["peak_memory_mb"] for record in records),
        "trainable_parameters": last["trainable_parameters"],
        "total_parameters": last["total_parameters"],
    }
