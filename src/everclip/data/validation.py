"""A sequence judged by pictures it would otherwise train on, for choosing hyperparameters without the test set."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from everclip.errors import DataError
from everclip.types import Indices, Session, Task, TaskSequence


def hold_out(sequence: TaskSequence, share: float) -> TaskSequence:
    """The sequence with a part of every session's training samples as its tasks' test sets.

    No test sample is left in it, and no class that is never trained on. The choice depends on the sequence alone: all
    runs of a search are judged by the same samples. Samples of a class are chosen class by class.

    Args:
        sequence: with its training samples.
        share: of each class's samples, rounded up, but one stays for training.

    Raises:
        DataError: a class has a single sample, or a session none with labels.
    """
    sessions, tasks = [], []
    for session in sequence.sessions:
        held = _choose(session, share)
        kept = np.setdiff1d(np.arange(len(session.train)), held)
        sessions.append(replace(session, train=session.train.subset(kept)))
        evaluator = sequence.tasks[sequence.trained(session.index)[-1]].evaluator
        tasks.append(Task(session.name, session.classes, session.train.subset(held), evaluator, session.index))
    return replace(sequence, sessions=tuple(sessions), tasks=tuple(tasks), held_out=None)


def _choose(session: Session, share: float) -> Indices:
    """Positions of the samples that are held out of a session's."""
    labels, chosen = session.train.labels, []
    if not len(labels):
        raise DataError(f"validation judges by training pictures with labels, of which session {session.name} has none")
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        if len(own) < 2:
            name = dict(zip(session.classes.ids, session.classes.names, strict=True)).get(label, session.name)
            raise DataError(f"validation needs two training pictures of each class, {name} has {len(own)}")
        order = np.random.Generator(np.random.PCG64([session.index, max(label, 0)])).permutation(len(own))
        chosen.append(own[order[: min(math.ceil(share * len(own)), len(own) - 1)]])
    return np.sort(np.concatenate(chosen))
