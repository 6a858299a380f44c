"""Class-incremental sequences: a base session and sessions of new classes, all pictures or a few shots per class.

Source: arXiv 1611.07725 (equal steps, order of CIFAR-100), LAMDA-CL/LAMDA-PILOT @ 5240714 (order seed1993),
GT-RIPL/CODA-Prompt @ 6417d4f (ImageNet-R, orders shuffle<k>), Thunderbeee/ZSCL @ b96e714 (Tiny-ImageNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from everclip.data.datasets.base import LabelledImages
from everclip.data.sequences import orders
from everclip.data.sequences.orders import ClassOrder
from everclip.data.sequences.shots import Unlabelled, choose_shots, choose_unlabelled, require_shots
from everclip.errors import ConfigError, DataError
from everclip.evaluation.classification import Classification
from everclip.objectives.classification import Classification as LabelObjective
from everclip.types import ClassSet, Indices, Positive, Samples, Session, Task, TaskSequence, Templates


@dataclass(frozen=True)
class Protocol:
    """How classes are spread over sessions.

    Attributes:
        base_classes: classes of session 0, None for all.
        way: new classes of every later session, the last may have fewer; None for all that are left.
        shots: training pictures per new class, None for all of them.
        base_shots: training pictures per base class, None for all of them.
        max_classes: use only the first classes of the order, None for all.
        class_order: see `orders.resolve`.
        seed: of the choice of shots.
        groups: the classes of each session as numbers in the data set; instead of counts and order if there are any.
        validation: training pictures per class that are not trained on, as `Session.validation`.
        unlabelled: training pictures per class, of those that are left then, as `Session.unlabelled`; or the `rest`.
    """

    base_classes: int | None
    way: int | None
    shots: int | None = None
    base_shots: int | None = None
    max_classes: int | None = None
    class_order: ClassOrder = "identity"
    seed: int = 0
    groups: Sequence[list[int]] = ()
    validation: int = 0
    unlabelled: Unlabelled = 0

    def sessions_of(self, names: Sequence[str]) -> list[list[int]]:
        """The classes of each session, as numbers in the data set.

        Raises:
            ConfigError: more classes asked for than there are, or an impossible order.
        """
        if self.groups:
            return list(self.groups)
        order = orders.resolve(self.class_order, names)[: self.max_classes]
        base = len(order) if self.base_classes is None else self.base_classes
        if base > len(order):
            raise ConfigError(f"sequence.base_classes={base}, but there are {len(order)} classes")
        starts = [0, *range(base, len(order), self.way or len(order))]
        return [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True)]


def class_incremental(
    *,
    dataset: LabelledImages,
    base_classes: Annotated[int, Field(ge=0)],
    way: Positive | None = None,
    steps: Positive | None = None,
    shots: Positive | None = None,
    base_shots: Positive | None = None,
    class_order: ClassOrder = "identity",
    unlabelled: Unlabelled = 0,
    templates: Templates | None = None,
    seed: int = 0,
) -> TaskSequence:
    """A data set's classes in sessions: `base_classes` at first, the others in equal parts.

    Args:
        dataset: with its official split.
        base_classes: classes of session 0; 0 makes it one of the equal parts (B0).
        way: classes of each part.
        steps: number of parts, instead of `way`.
        shots: training pictures per class after session 0, None for all.
        base_shots: training pictures per class of session 0, None for all.
        class_order: see `orders.resolve`.
        unlabelled: more training pictures per class whose labels are not shown, or the `rest` of them.
        templates: of the prompts, None for the data set's.
        seed: of the choice of shots.

    Raises:
        ConfigError: not one of `way` and `steps`, or classes that do not divide into `steps`.
        DataError: a class with fewer pictures than shots.
    """
    if (way is None) == (steps is None):
        raise ConfigError(f"sequence.way={way} and sequence.steps={steps}: give one of them, the other null")
    if steps is not None:
        later = len(orders.resolve(class_order, dataset.names)) - base_classes
        if later < steps or later % steps:
            raise ConfigError(f"sequence.steps={steps}: {later} classes do not divide into so many sessions")
        way = later // steps
    protocol = Protocol(
        base_classes or way, way, shots, base_shots, class_order=class_order, seed=seed, unlabelled=unlabelled
    )
    shown = templates or dataset.templates
    return build(f"cil_{dataset.name}", protocol, dataset.train, dataset.test, dataset.names, shown)


def build(
    name: str,
    protocol: Protocol,
    train: Samples,
    test: Samples,
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

    Raises:
        ConfigError: the protocol does not fit the classes.
        DataError: a class with fewer pictures than shots, or too few besides.
    """
    sessions: list[Session] = []
    tasks: list[Task] = []
    everything = ClassSet(tuple(range(len(names))), tuple(names), tuple(templates))
    seen: list[int] = []
    for index, numbers in enumerate(protocol.sessions_of(names)):
        seen += numbers
        new = everything.select(numbers)
        own = train.subset(train.indices_of(new))
        shots = protocol.base_shots if index == 0 else protocol.shots
        require_shots(own.labels, shots, names)
        session_name = "base" if index == 0 else f"session_{index:02d}"
        chosen = choose_shots(own.labels, shots, protocol.seed)
        session = Session(
            index, session_name, new, everything.select(seen), own.subset(chosen), objective=LabelObjective()
        )
        sessions.append(replace(session, **_beside(own, chosen, new, protocol)))
        tasks.append(Task(session_name, new, test.subset(test.indices_of(new)), Classification(), index))
    if protocol.unlabelled != 0 and all(session.unlabelled is None for session in sessions):
        raise DataError(
            f"{name}: sequence.unlabelled={protocol.unlabelled}, but no pictures are left; give sequence.shots"
        )
    order = orders.describe(protocol.class_order)
    return TaskSequence(name, tuple(sessions), tuple(tasks), held_out=held_out, class_order=order)


def _beside(own: Samples, chosen: Indices, classes: ClassSet, protocol: Protocol) -> dict[str, Any]:
    """What a session gets of its classes' pictures beside those `chosen` to train on, by name.

    Raises:
        DataError: a class does not have enough of them.
    """
    beside: dict[str, Any] = {}
    for name, count in (("validation", protocol.validation), ("unlabelled", protocol.unlabelled)):
        if count == 0:
            continue
        left = np.setdiff1d(np.arange(len(own)), chosen)
        for class_id, title in zip(classes.ids, classes.names, strict=True):
            there = int((own.labels[left] == class_id).sum())
            if count != "rest" and there < count:
                raise DataError(f"class {title!r} has {there} pictures beside those it is trained on, {name}={count}")
        taken = choose_unlabelled(own.labels, chosen, count, protocol.seed)
        if len(taken):
            beside[name] = own.subset(taken)
        chosen = np.concatenate([chosen, taken])
    return beside
