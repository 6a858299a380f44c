"""Class-incremental sequences: a base session and sessions of new classes, all pictures or a few shots per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from everclip.errors import ConfigError, DataError
from everclip.types import ClassSet, ImageSet, Indices, Session, Task, TaskSequence


@dataclass(frozen=True)
class Protocol:
    """How classes are spread over sessions.

    Attributes:
        base_classes: classes of session 0.
        way: new classes of every later session; the last may have fewer.
        shots: training pictures per new class, None for all of them.
        base_shots: training pictures per base class, None for all of them.
        max_classes: use only the first classes of the order, None for all.
        class_order: `identity` (as the data set numbers them), or `seed<k>` (a NumPy permutation, as in the
            class-incremental literature with k = 1993).
        seed: of the choice of shots.
    """

    base_classes: int
    way: int
    shots: int | None = None
    base_shots: int | None = None
    max_classes: int | None = None
    class_order: str = "identity"
    seed: int = 0

    def sessions_of(self, num_classes: int) -> list[list[int]]:
        """The classes of each session, as numbers in the data set.

        Raises:
            ConfigError: more classes asked for than there are.
        """
        order = _class_order(self.class_order, num_classes)[: self.max_classes]
        if self.base_classes > len(order):
            raise ConfigError(f"sequence.base_classes={self.base_classes}, but there are {len(order)} classes")
        starts = [0, *range(self.base_classes, len(order), self.way)]
        return [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True)]


def _class_order(name: str, num_classes: int) -> list[int]:
    if name == "identity":
        return list(range(num_classes))
    if name.startswith("seed") and name[4:].isdigit():
        order: list[int] = np.random.RandomState(int(name[4:])).permutation(num_classes).tolist()
        return order
    raise ConfigError(f"sequence.class_order={name}: must be identity or seed<number>, for example seed1993")


def choose_shots(labels: Indices, shots: int | None, seed: int) -> Indices:
    """Positions of `shots` pictures of every class, drawn without replacement and in the order of the data set.

    Raises:
        DataError: a class has fewer pictures.
    """
    if shots is None:
        return np.arange(len(labels))
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < shots:
            raise DataError(f"class {label} has {len(members)} training pictures, fewer than {shots} shots")
        keys = np.random.Generator(np.random.PCG64([seed, int(label)])).random(len(members))
        chosen.append(np.sort(members[np.argsort(keys)[:shots]]))
    return np.concatenate(chosen)


def build(
    name: str,
    protocol: Protocol,
    train: ImageSet,
    test: ImageSet,
    names: Sequence[str],
    templates: Sequence[str],
    held_out: Task | None = None,
) -> TaskSequence:
    """The sequence of a labelled data set under a protocol.

    Args:
        name: of the sequence.
        protocol: how classes are spread.
        train: all training pictures, labels 0..len(names)-1.
        test: all test pictures.
        names: of the classes.
        templates: of the prompts.
        held_out: classes outside the sequence.

    Returns:
        One session and one task per group of classes; labels stay as they are in the data set.
    """
    sessions: list[Session] = []
    tasks: list[Task] = []
    everything = ClassSet(tuple(range(len(names))), tuple(names), tuple(templates))
    seen: list[int] = []
    for index, numbers in enumerate(protocol.sessions_of(len(names))):
        seen += numbers
        new = everything.select(numbers)
        own = train.subset(train.indices_of(new))
        shots = protocol.base_shots if index == 0 else protocol.shots
        session_name = "base" if index == 0 else f"session_{index:02d}"
        chosen = own.subset(choose_shots(own.labels, shots, protocol.seed))
        sessions.append(Session(index, session_name, new, everything.select(seen), chosen))
        tasks.append(Task(session_name, new, test.subset(test.indices_of(new))))
    return TaskSequence(name, tuple(sessions), tuple(tasks), held_out=held_out, class_order=protocol.class_order)
