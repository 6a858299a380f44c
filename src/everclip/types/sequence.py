"""Sessions, tasks and their order."""

from __future__ import annotations

from dataclasses import dataclass

from everclip.digest import json_sha256
from everclip.types.classes import ClassSet
from everclip.types.samples import ImageSet


@dataclass(frozen=True)
class Session:
    """One step of a task sequence.

    Attributes:
        index: 0 for the base session.
        name: shown on the console and in files.
        new: the classes that appear in this session.
        seen: all classes up to and including this session, in order of appearance.
        train: what may be trained on.
        memory: pictures of earlier sessions that the method kept, in the order of `Method.kept`; None if it keeps none.
        offset: number of training pictures of all earlier sessions; picture i of `train` is number `offset + i` of the
            sequence, which is how `Method.kept` names it.
        repeats: how often a picture of `train` comes in training.
        augmented: whether it then looks different each time.
    """

    index: int
    name: str
    new: ClassSet
    seen: ClassSet
    train: ImageSet
    memory: ImageSet | None = None
    offset: int = 0
    repeats: float = 0.0
    augmented: bool = False

    @property
    def is_base(self) -> bool:
        """Whether this is the first session."""
        return self.index == 0

    @property
    def recurs(self) -> bool:
        """Whether a picture of `train` comes more than once in training, the same every time."""
        return self.repeats > 1 and not self.augmented


@dataclass(frozen=True)
class Task:
    """Test pictures of one session's classes (or of one domain)."""

    name: str
    classes: ClassSet
    test: ImageSet


@dataclass(frozen=True)
class TaskSequence:
    """Ordered sessions and the tasks they are judged by; knows no model.

    Attributes:
        name: of the sequence.
        sessions: in order.
        tasks: one per session.
        label_space: what a test picture is compared with: all classes `seen` so far, or its own `task`'s classes.
        evaluate: after each session the tasks `seen` so far, or `all` of them.
        held_out: classes never trained on, to follow what is left of zero-shot recognition; None if there are none.
        class_order: name of the class order.
    """

    name: str
    sessions: tuple[Session, ...]
    tasks: tuple[Task, ...]
    label_space: str = "seen"
    evaluate: str = "seen"
    held_out: Task | None = None
    class_order: str = "identity"

    def candidates(self, session: int, task: int) -> ClassSet:
        """The classes a picture of `task` is compared with after `session`."""
        return self.sessions[session].seen if self.label_space == "seen" else self.tasks[task].classes

    def evaluated(self, session: int) -> range:
        """The tasks evaluated after `session`."""
        return range(session + 1) if self.evaluate == "seen" else range(len(self.tasks))

    def fingerprint(self) -> str:
        """Hex digest of everything that can change a result: pictures, labels, names, templates, order, protocol."""

        def facts(classes: ClassSet, images: ImageSet) -> list[object]:
            return [classes.ids, classes.names, classes.own_templates or classes.templates, images.fingerprint()]

        tasks = [*self.tasks, *([self.held_out] if self.held_out else [])]
        return json_sha256(
            [
                self.label_space,
                self.evaluate,
                [[s.name, *facts(s.new, s.train)] for s in self.sessions],
                [[t.name, *facts(t.classes, t.test)] for t in tasks],
            ]
        )
