"""The concepts that everything else is written in: classes, pictures, sessions, tasks, phases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from everclip.digest import json_sha256
from everclip.errors import ConfigError, DataAccessError, DataError

Positive = Annotated[int, Field(ge=1)]  # an argument that a configuration must give as at least 1
Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]  # a text with {} once, for the class name
Indices = NDArray[np.int64]
Resize = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class ClassSet:
    """An ordered set of classes with their names and text templates.

    Attributes:
        ids: global class ids, unique; labels are written in these.
        names: one natural-language name per class.
        templates: each with one `{}` for the name; a class's text feature is the mean over its prompts.
        own_templates: the templates of each class where they differ between classes (several domains in one set);
            `templates` are then those of the first class. Empty: all classes share `templates`.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    templates: tuple[str, ...] = ("a photo of a {}.",)
    own_templates: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise ConfigError(f"{len(self.ids)} class ids but {len(self.names)} names")
        if len(set(self.ids)) != len(self.ids):
            raise ConfigError("a class id occurs twice")
        for template in dict.fromkeys((*self.templates, *(t for own in self.own_templates for t in own))):
            if template.count("{}") != 1:
                raise ConfigError(f"the template {template!r} must contain {{}} exactly once, for the class name")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: Sequence[int]) -> ClassSet:
        """The classes at these positions, in this order."""
        ids, names = tuple(self.ids[i] for i in positions), tuple(self.names[i] for i in positions)
        if not self.own_templates:
            return ClassSet(ids, names, self.templates)
        return _class_set(ids, names, tuple(self.own_templates[i] for i in positions))

    @staticmethod
    def union(parts: Sequence[ClassSet]) -> ClassSet:
        """The classes of several sets one after the other, each with the templates it had."""
        own = tuple(t for part in parts for t in (part.own_templates or (part.templates,) * len(part)))
        ids, names = (tuple(v for part in parts for v in getattr(part, field)) for field in ("ids", "names"))
        return _class_set(ids, names, own)

    def by_templates(self) -> list[tuple[list[int], ClassSet]]:
        """The classes grouped by their templates: positions in this set and the group, which shares its templates."""
        if not self.own_templates:
            return [(list(range(len(self))), self)]
        groups: dict[tuple[str, ...], list[int]] = {}
        for position, own in enumerate(self.own_templates):
            groups.setdefault(own, []).append(position)
        return [(positions, self.select(positions)) for positions in groups.values()]

    def prompts(self, template: str) -> list[str]:
        """One text per class."""
        return [template.format(name) for name in self.names]

    @cached_property
    def _position(self) -> Tensor:
        table = torch.full((max(self.ids) + 2,), -1, dtype=torch.long)
        table[torch.tensor(self.ids)] = torch.arange(len(self.ids))
        return table

    def columns(self, labels: Tensor) -> Tensor:
        """Position of each global label (B,) in this set, (B,) long.

        Raises:
            DataError: a label is not in the set.
        """
        table = self._position.to(labels.device)
        columns = table[labels.clamp(max=len(table) - 1)]
        if bool((columns < 0).any()):
            missing = sorted(set(labels[columns < 0].tolist()))
            raise DataError(f"labels {missing} are not among the {len(self)} classes asked for")
        return columns


def _class_set(ids: tuple[int, ...], names: tuple[str, ...], own: tuple[tuple[str, ...], ...]) -> ClassSet:
    """A `ClassSet` in its simplest form: templates that all classes share are not repeated per class."""
    return ClassSet(ids, names, own[0] if own else (), own if len(set(own)) > 1 else ())


class ImageSet(ABC):
    """Labelled pictures as they lie on disk or in memory, before any backbone's preprocessing.

    Attributes:
        labels: (N,) global class ids.
    """

    labels: Indices

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, indices: Sequence[int], resize: Resize) -> Tensor:
        """The pictures at `indices` as the backbone wants them, (len(indices), 3, S, S) uint8."""

    @abstractmethod
    def subset(self, indices: Sequence[int] | Indices) -> ImageSet:
        """These pictures, in this order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what identifies the pictures and labels, without decoding them."""

    def indices_of(self, classes: ClassSet) -> Indices:
        """Where the pictures of these classes are, in their order."""
        return np.flatnonzero(np.isin(self.labels, classes.ids))


class SessionView(ImageSet):
    """The training pictures of one session as a method sees them; closed, with all its subsets, when the session ends.

    Args:
        source: the pictures.
        session: index, for the message.
    """

    def __init__(self, source: ImageSet, session: int) -> None:
        self._source = source
        self._session = session
        self._closed: list[bool] = []  # shared with the subsets; closed once it holds anything
        self.labels = source.labels

    def close(self) -> None:
        """Ends access."""
        self._closed.append(True)

    def images(self, indices: Sequence[int], resize: Resize) -> Tensor:
        if self._closed:
            raise DataAccessError(
                f"pictures of session {self._session} were read after it ended; a method that keeps pictures must "
                "declare sees = 'exemplars' and name them in kept(), one that trains on everything so far sees = 'all'"
            )
        return self._source.images(indices, resize)

    def subset(self, indices: Sequence[int] | Indices) -> SessionView:
        view = SessionView(self._source.subset(indices), self._session)
        view._closed = self._closed
        return view

    def fingerprint(self) -> str:
        return self._source.fingerprint()


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


@dataclass(frozen=True)
class Reference:
    """Pictures and texts from outside the sequence, on which a method compares two models; they need not be paired.

    Attributes:
        images: their labels mean nothing.
        texts: captions or other sentences.
    """

    images: ImageSet = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Batch:
    """What `Method.loss` gets.

    Attributes:
        images: (B, 3, S, S) float32, normalised for the backbone.
        labels: (B,) global class ids.
        indices: (B,) positions in the data set of the phase.
        auxiliary: a batch of the phase's auxiliary pictures, None if it has none.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    auxiliary: Batch | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        auxiliary = None if self.auxiliary is None else self.auxiliary.map(change)
        return Batch(change(self.images), change(self.labels), change(self.indices), auxiliary)

    def with_images(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with its pictures changed, the auxiliary ones too."""
        auxiliary = None if self.auxiliary is None else self.auxiliary.with_images(change)
        return Batch(change(self.images), self.labels, self.indices, auxiliary)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; `DataLoader` asks for it."""
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; Lightning moves anything that has this method."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class Draws(Protocol):
    """Draws the batches of a phase, where shuffled passes over its pictures will not do.

    Attributes:
        steps: batches of a pass.
    """

    @property
    def steps(self) -> int: ...

    def __call__(self, stream: np.random.Generator, size: int) -> Indices:
        """Positions (size,) in the phase's data, from random numbers that are the batch's own."""


@dataclass(frozen=True)
class Phase:
    """One stretch of optimisation; fields left None come from the run's configuration.

    Attributes:
        name: shown in logs.
        parameters: what the optimiser gets; None: all of the method that require a gradient.
        loss: maps a `Batch` to named, already weighted scalar terms; None: `Method.loss`.
        data: pictures to train on; None: the session's.
        draws: which of them come together in a batch; None: each comes once in a pass, in random order.
        epochs: passes over `data`.
        batch_size: pictures per step, over all processes.
        lr: learning rate before the schedule.
        auxiliary: pictures drawn beside `data` in every step (replay, a reference set), shuffled by themselves and
            repeated as often as the phase lasts.
        auxiliary_batch_size: auxiliary pictures per step, over all processes; None: as many as `batch_size`.
        augment_auxiliary: whether they are augmented as the others are.
    """

    name: str = "train"
    parameters: tuple[nn.Parameter, ...] | None = None
    loss: Callable[[Batch], dict[str, Tensor]] | None = None
    data: ImageSet | None = field(default=None, repr=False)
    draws: Draws | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    auxiliary: ImageSet | None = field(default=None, repr=False)
    auxiliary_batch_size: int | None = None
    augment_auxiliary: bool = True
