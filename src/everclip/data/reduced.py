"""Less of a task sequence, to find mistakes quickly; what it scores means nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from everclip.errors import DataError
from everclip.types import NO_CLASS, Indices, Samples, Task, TaskSequence

UNNAMED = 8  # samples without a class count as a class of each so many


def limited(sequence: TaskSequence, count: int) -> TaskSequence:
    """The sequence with the first `count` samples of every class, in training as in testing.

    Of samples without classes, as image-text pairs, there are eight times as many.
    """

    def some(samples: Samples) -> Samples:
        return samples.subset(_first(samples.labels, count))

    sessions = tuple(
        replace(
            session,
            train=some(session.train),
            unlabelled=None if session.unlabelled is None else some(session.unlabelled),
            validation=None if session.validation is None else some(session.validation),
        )
        for session in sequence.sessions
    )
    tasks = tuple(replace(task, samples=some(task.samples)) for task in sequence.tasks)
    held_out = (
        None if sequence.held_out is None else replace(sequence.held_out, samples=some(sequence.held_out.samples))
    )
    return replace(sequence, sessions=sessions, tasks=tasks, held_out=held_out)


def _first(labels: Indices, count: int) -> Indices:
    """Positions of the first samples of every label, in order."""
    found = []
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        found.append(own[: count if label != NO_CLASS else UNNAMED * count])
    return np.sort(np.concatenate(found)) if found else np.arange(0)


def memorised(sequence: TaskSequence, count: int) -> TaskSequence:
    """The sequence with `count` training samples in every session, spread over its classes, which it is judged by too.

    Raises:
        DataError: a session without training samples.
    """
    sessions, tasks = [], []
    for session in sequence.sessions:
        if not len(session.train):
            raise DataError(f"overfit={count} judges by training samples, of which session {session.name} has none")
        few = session.train.subset(np.unique(np.linspace(0, len(session.train) - 1, count).round().astype(np.int64)))
        evaluator = sequence.tasks[sequence.trained(session.index)[-1]].evaluator
        sessions.append(replace(session, train=few))
        tasks.append(Task(session.name, session.classes, few, evaluator, session.index))
    return replace(sequence, sessions=tuple(sessions), tasks=tuple(tasks), held_out=None)
