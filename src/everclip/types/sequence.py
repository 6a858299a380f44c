"""Sessions, tasks and their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everclip.digest import json_sha256
from everclip.types.classes import NO_CLASSES, ClassSet
from everclip.types.judging import Evaluator, Objective
from everclip.types.samples import Samples


@dataclass(frozen=True)
class Session:
    """One step of a task sequence.

    Attributes:
        index: 0 for the base session.
        name: shown on the console and in files.
        new: the classes that appear in this session for the first time; none where samples have no classes.
        seen: all classes up to and including this session, in order of appearance.
        train: what may be trained on.
        unlabelled: more to train on, whose labels and texts a method does not see; None where the sequence has none.
        without_labels: new classes of which `train` has no sample; where there are any, `unlabelled` is of these alone,
            else of the classes of `train`.
        returning: classes of earlier sessions that `train` has samples of again.
        validation: with labels, to judge a method's own choices by, never to train on; None where there is none.
        memory: samples of earlier sessions that the method kept, in the order of `Method.kept`; None if it keeps none.
        offset: number of training samples of all earlier sessions; sample i of `train` is number `offset + i` of the
            sequence, which is how `Method.kept` names it.
        repeats: how often a sample of `train` comes in training.
        augmented: whether it then looks different each time, or shows other frames.
        objective: how `train` is learnt by methods that leave that to the sequence; None: they cannot learn it.
    """

    index: int
    name: str
    new: ClassSet
    seen: ClassSet
    train: Samples
    memory: Samples | None = None
    offset: int = 0
    repeats: float = 0.0
    augmented: bool = False
    objective: Objective | None = None
    unlabelled: Samples | None = None
    without_labels: ClassSet = NO_CLASSES
    validation: Samples | None = None
    returning: ClassSet = NO_CLASSES

    @property
    def classes(self) -> ClassSet:
        """The classes of `train`: those that return, and the new ones that have labels."""
        hidden = self.without_labels.ids
        new = self.new.select([i for i, c in enumerate(self.new.ids) if c not in hidden]) if hidden else self.new
        return ClassSet.union([self.returning, new]) if self.returning else new

    @property
    def num_samples(self) -> int:
        """How many there are to train on, with labels and without."""
        return len(self.train) + (0 if self.unlabelled is None else len(self.unlabelled))

    @property
    def is_base(self) -> bool:
        """Whether this is the first session."""
        return self.index == 0

    @property
    def recurs(self) -> bool:
        """Whether a sample of `train` comes more than once in training, the same every time."""
        return self.repeats > 1 and not self.augmented

    def samples(self) -> dict[str, Samples]:
        """The session's own samples by the name of the attribute, without those that are not there."""
        named = {"train": self.train, "unlabelled": self.unlabelled, "validation": self.validation}
        return {name: samples for name, samples in named.items() if samples is not None}

    def map(self, change: Callable[[Samples], Samples]) -> Session:
        """The session with each of its `samples` changed."""
        changed: dict[str, Any] = {name: change(samples) for name, samples in self.samples().items()}
        return replace(self, **changed)


@dataclass(frozen=True)
class Task:
    """What a model is judged by.

    Attributes:
        name: shown.
        classes: of the samples; none where they have no classes.
        samples: test samples of one session's classes, or of one domain.
        evaluator: how they judge.
        session: index of the session that trains for it, None if none does.
        also: further evaluators, whose scores come besides.
    """

    name: str
    classes: ClassSet
    samples: Samples
    evaluator: Evaluator
    session: int | None = None
    also: tuple[Evaluator, ...] = ()

    @property
    def evaluators(self) -> tuple[Evaluator, ...]:
        """All of them, the task's own first."""
        return (self.evaluator, *self.also)


@dataclass(frozen=True)
class TaskSequence:
    """Ordered sessions and the tasks they are judged by; knows no model.

    Attributes:
        name: of the sequence.
        sessions: in order.
        tasks: in order of their sessions.
        protocol: module of `everclip.metrics` that says what is read from the scores; changes none of them.
        evaluate: after each session the tasks of the sessions `seen` so far, or `all` of them.
        held_out: classes never trained on, to follow what is left of zero-shot recognition; None if there are none.
        class_order: name of the class order.
    """

    name: str
    sessions: tuple[Session, ...]
    tasks: tuple[Task, ...]
    protocol: str = "class_incremental"
    evaluate: str = "seen"
    held_out: Task | None = None
    class_order: str = "identity"

    def seen(self, session: int) -> tuple[ClassSet, ...]:
        """The new classes of each session up to `session`."""
        return tuple(earlier.new for earlier in self.sessions[: session + 1])

    def trained(self, session: int) -> list[int]:
        """The tasks that sessions up to `session` train for."""
        return [index for index, task in enumerate(self.tasks) if task.session is not None and task.session <= session]

    def keeping(self, session: int) -> list[int]:
        """Those of them of which something is kept, see `Evaluator.search`."""
        return [index for index in self.trained(session) if self.tasks[index].evaluator.keeps]

    def arrived(self, session: int) -> list[int]:
        """All tasks but those that only sessions after `session` train for."""
        return [index for index, task in enumerate(self.tasks) if task.session is None or task.session <= session]

    def evaluated(self, session: int) -> list[int]:
        """The tasks evaluated after `session`."""
        return self.trained(session) if self.evaluate == "seen" else list(range(len(self.tasks)))

    def files(self) -> list[Path]:
        """What the samples are read from, each file once."""
        trained = [samples for session in self.sessions for samples in session.samples().values()]
        tasks = [*self.tasks, *([self.held_out] if self.held_out else [])]
        sets = [*trained, *(task.samples for task in tasks)]
        return list(dict.fromkeys(path for samples in sets for path in samples.files))

    def fingerprint(self) -> str:
        """Hex digest of everything that can change a result: samples, names, templates, order, way of judging."""

        def facts(classes: ClassSet, samples: Samples) -> list[object]:
            return [classes.ids, classes.names, classes.own_templates or classes.templates, samples.fingerprint()]

        def beside(session: Session) -> list[object]:
            found: dict[str, object] = {n: s.fingerprint() for n, s in session.samples().items() if n != "train"}
            for name in ("returning", "without_labels"):
                if classes := getattr(session, name):
                    found[name] = classes.ids
            return [found] if found else []

        tasks = [*self.tasks, *([self.held_out] if self.held_out else [])]
        return json_sha256(
            [
                "+".join(dict.fromkeys(each.identity for task in self.tasks for each in task.evaluators)),
                self.evaluate,
                [[s.name, *facts(s.new, s.train), *beside(s)] for s in self.sessions],
                [[t.name, *facts(t.classes, t.samples)] for t in tasks],
            ]
        )
