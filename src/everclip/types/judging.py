"""How a task is judged, and how a session's samples are learnt: the interfaces of evaluators and objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from everclip.metrics.scores import Score
from everclip.types.classes import ClassSet
from everclip.types.samples import Batch, Samples

if TYPE_CHECKING:
    from everclip.types.sequence import Task


class Moments(NamedTuple):
    """What of clips fits their texts.

    Attributes:
        saliency: (B, T) of each of T equal parts, larger where it fits better.
        spans: (B, K, 2) starts and ends of moments as shares of the clip's length, the best first; -1 where there are
            fewer.
    """

    saliency: Tensor
    spans: Tensor


class Model(Protocol):
    """What evaluators and objectives ask of a method."""

    @property
    def backbone(self) -> Any:
        """The backbone, whose `logit_scale` is the factor of cosine similarities."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Image features (B, E) of length 1 for normalised pictures (B, 3, S, S) or clips (B, T, 3, S, S)."""

    def encode_patches(self, images: Tensor) -> Tensor:
        """Patch features (B, G, G, E) of length 1 for normalised pictures (B, 3, S, S)."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Text features (N, E) of length 1."""

    def class_features(self, classes: ClassSet) -> Tensor:
        """One text feature (C, E) of length 1 per class."""

    def classifier(self, classes: ClassSet) -> Callable[[Tensor], Tensor]:
        """A function from normalised pictures to logits (B, C)."""

    def moments(self, images: Tensor, texts: Sequence[str]) -> Moments:
        """What of clips (B, T, 3, S, S) fits their texts (B)."""


class Passes(Protocol):
    """Passes over everything there is, shared by all processes, without gradients, in the run's precision."""

    def samples(self, samples: Samples, function: Callable[[Batch], Tensor], *, by_features: bool = False) -> Tensor:
        """What a function gives for batches of samples (normalised, on the device): rows (N, ...) in their order.

        Complete on every process; floating-point rows as float32.

        Args:
            samples: to be read.
            function: of a batch.
            by_features: whether it looks at pictures by `encode_image` or a classifier of the model alone, so that what
                the model's frozen tower makes of them may come in their place (see `Method.frozen_images`).
        """

    def texts(self, texts: Sequence[str], function: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """The same for texts: rows (N, ...)."""


@dataclass(frozen=True)
class Verdict:
    """How a task was done.

    Attributes:
        scores: by name.
        facts: JSON-like details beside them.
        sketch: see `Evaluator.sketch`.
        kept: see `Evaluator.search`.
        queries: see `Evaluator.search`.
    """

    scores: dict[str, Score]
    facts: dict[str, Any] = field(default_factory=dict)
    sketch: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    queries: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Guess:
    """What a model takes one sample for.

    Attributes:
        label: what is right.
        names: the likeliest answers with their probability, best first.
    """

    label: str
    names: tuple[tuple[str, float], ...]


class Evaluator(ABC):
    """A way to judge a model by a task's samples; knows no engine and no method.

    Attributes:
        entry: the score that is the task's entry A[t, j].
        open_vocabulary: whether any text is compared, so that a method that scores trained classes only is refused.
        patches: whether it reads patch features.
    """

    entry: ClassVar[str]
    open_vocabulary: ClassVar[bool] = False
    patches: ClassVar[bool] = False

    @property
    @abstractmethod
    def identity(self) -> str:
        """What a sequence's fingerprint names it by."""

    @abstractmethod
    def evaluate(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        """The scores of a task.

        Args:
            model: in evaluation mode.
            task: what it is judged by.
            passes: over the task's samples.
            seen: the new classes of each session so far.
        """

    def sketch(self, model: Model, task: Task, passes: Passes) -> Mapping[str, Tensor]:
        """How a model sees a few of the task's samples, always the same ones, to be compared with others; or nothing.

        `evaluate` gives the same in its verdict, from what it has computed anyway.
        """
        return {}

    def diagnose(self, now: Mapping[str, Tensor], start: Mapping[str, Tensor] | None) -> dict[str, Score]:
        """Scores of a sketch, and of how far it is from that of the backbone before the first session, if it is known.

        Only sketches of finite numbers come here.
        """
        return {}

    @property
    def keeps(self) -> bool:
        """Whether something of a task is kept from when its session has been trained, see `search`."""
        return False

    def search(self, queries: Mapping[str, Tensor], kept: Sequence[Mapping[str, Tensor]], own: int) -> dict[str, Score]:
        """Scores of a task's queries among what was kept of all sessions so far, and never computed again.

        Args:
            queries: of the task's verdict now.
            kept: of the verdict on each of their tasks, as it was when the task's own session had been trained.
            own: place of the task among them.
        """
        return {}

    def loss(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> float | None:
        """Mean cross-entropy on a task, where samples are told apart by logits; arguments as in `evaluate`."""
        return None

    def guesses(self, model: Model, task: Task, batch: Batch, seen: Sequence[ClassSet]) -> list[Guess]:
        """What the model takes some of the task's samples for, to look at; none where that is not defined."""
        return []


class Objective(ABC):
    """How a session's samples are learnt by methods that leave that to the sequence.

    Attributes:
        needs: what its samples must have, for messages.
        from_labels: whether that is class labels, which every method can learn.
        pairs: whether that is a text of each picture, see `Method.learns_pairs`.
        order: whether that is a value of each picture, see `Method.learns_order`.
        moments: whether that is where in clips texts are, see `Method.learns_moments`.
        couples_batch: whether samples of a batch are compared with each other, see `Method.couples_batch`.
        patches: whether it reads patch features.
        all_parameters_used: whether every weight of both towers then gets a gradient, see `Method`.
    """

    needs: ClassVar[str]
    from_labels: ClassVar[bool] = False
    pairs: ClassVar[bool] = False
    order: ClassVar[bool] = False
    moments: ClassVar[bool] = False
    couples_batch: ClassVar[bool] = False
    patches: ClassVar[bool] = False
    all_parameters_used: ClassVar[bool] = True

    @abstractmethod
    def rows(self, model: Model, classes: ClassSet) -> Callable[[Batch], tuple[Tensor, ...]]:
        """A function from normalised batches to what `compare` reads of them, of each tensor a row (B, ...) per sample.

        What depends on the classes alone is computed once, here.

        Args:
            model: in training.
            classes: that samples are compared with, where the objective compares with classes.
        """

    @abstractmethod
    def compare(self, model: Model, rows: Sequence[Tensor], label_smoothing: float) -> dict[str, Tensor]:
        """Named scalar terms.

        Args:
            model: in training.
            rows: of one batch, or of several one after the other.
            label_smoothing: share of the target spread over all that a sample is compared with.
        """

    def loss(self, model: Model, batch: Batch, classes: ClassSet, label_smoothing: float) -> dict[str, Tensor]:
        """The terms of a batch; arguments as in `rows` and `compare`."""
        return self.compare(model, self.rows(model, classes)(batch), label_smoothing)
