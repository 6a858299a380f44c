"""Judges a method by the tasks that are due after a session: one row of the table of scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.errors import ConfigError, ContractError, NotFiniteError
from everclip.methods.base import Method
from everclip.training.engine import Engine
from everclip.types import ClassSet, Guess, Moments, Objective, Passes, Task, TaskSequence, Verdict, in_views

SHOWN = 8
Kept = dict[int, Mapping[str, Tensor]]  # by task, see `Evaluator.search`


@dataclass(frozen=True)
class Shown:
    """A guess, and which sample it is about: index of the task and position in its samples."""

    task: int
    sample: int
    guess: Guess


@dataclass(frozen=True)
class Evaluation:
    """How the tasks that are due were done.

    Attributes:
        verdicts: by task index.
        num_samples: judged.
        held_out: the entry score of the classes never trained on, in %; None where it does not apply.
        guesses: about some samples, spread evenly over the tasks.
        kept: of the tasks of the session itself.
    """

    verdicts: dict[int, Verdict]
    num_samples: int
    held_out: float | None
    guesses: tuple[Shown, ...]
    kept: Kept


class Evaluated:
    """A method as evaluators see it: what depends on classes alone is computed once per evaluation.

    Args:
        method: in evaluation mode.
        known: the classes that it was trained on, where evaluators number classes otherwise.

    Attributes:
        finite: scalar, whether all that the method gave so far is finite on this process.

    Raises:
        ContractError: what the method gives has another shape than it promised.
    """

    def __init__(self, method: Method, known: ClassSet | None = None) -> None:
        self._method = method
        self._known = known
        self.name = type(method).__name__
        self.finite = torch.ones((), dtype=torch.bool, device=method.backbone.device)
        self._classifiers: dict[ClassSet, Callable[[Tensor], Tensor]] = {}
        self._features: dict[ClassSet, Tensor] = {}
        self.backbone = method.backbone

    def encode_image(self, images: Tensor) -> Tensor:
        """Image features (B, E) of length 1; of samples in several views (see `in_views`) their mean."""
        if in_views(images):
            views = self._method.encode_image(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            return self._checked("image features", F.normalize(views.mean(dim=1), dim=-1), len(images), None)
        return self._checked("image features", self._method.encode_image(images), len(images), None)

    def encode_patches(self, images: Tensor) -> Tensor:
        """Patch features (B, G, G, E) of length 1."""
        return self._checked("patch features", self._method.encode_patches(images), len(images), None, None, None)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Text features (N, E) of length 1."""
        return self._checked("text features", self._method.encode_text(texts), len(texts), None)

    def classifier(self, classes: ClassSet) -> Callable[[Tensor], Tensor]:
        """A function from normalised pictures to logits (B, C)."""
        if classes not in self._classifiers:
            self._classifiers[classes] = self._method.classifier(self._adopted(classes))
        classify = self._classifiers[classes]
        return lambda images: self._checked("logits", classify(images), len(images), len(classes))

    def moments(self, images: Tensor, texts: Sequence[str]) -> Moments:
        """What of clips (B, T, 3, S, S) fits their texts."""
        found = self._method.moments(images, texts)
        self._checked("saliency", found.saliency, *images.shape[:2])
        return found

    def class_features(self, classes: ClassSet) -> Tensor:
        """One text feature (C, E) of length 1 per class."""
        if classes not in self._features:
            features = self._method.class_features(self._adopted(classes))
            self._features[classes] = self._checked("class features", features, len(classes), None)
        return self._features[classes]

    def _adopted(self, classes: ClassSet) -> ClassSet:
        return classes if self._known is None else self._known.adopt(classes)

    def _checked(self, what: str, values: Tensor, *shape: int | None) -> Tensor:
        """The values, if they have this shape (None: of any length); remembers whether they are finite."""
        if len(shape) != values.ndim or any(n not in (None, m) for n, m in zip(shape, values.shape, strict=True)):
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise ContractError(f"{self.name} gave {what} of shape {tuple(values.shape)} instead of ({wanted})")
        self.finite = self.finite & values.isfinite().all()
        return values


def due_tasks(sequence: TaskSequence, method: Method, session: int) -> list[int]:
    """The tasks that a method is judged by after a session: of those that are due, such as it knows all classes of."""
    due = sequence.evaluated(session)
    if method.open_vocabulary:
        return list(due)
    known = {class_id for classes in sequence.seen(session) for class_id in classes.ids}
    return [task for task in due if known.issuperset(sequence.tasks[task].classes.ids)]


class Judge:
    """Evaluates methods on a sequence.

    Args:
        engine: makes the passes.
        sequence: of tasks.
        known: the classes of a method that was trained on another sequence, to be found by their names in this one.
    """

    def __init__(self, engine: Engine, sequence: TaskSequence, known: ClassSet | None = None) -> None:
        self._engine = engine
        self._sequence = sequence
        self._known = known
        self._start: dict[int, Mapping[str, Tensor]] = {}
        self._kept: Kept = {}

    def keep(self, kept: Kept) -> None:
        """Takes what an earlier process kept of tasks."""
        self._kept |= kept

    def remember(self, method: Method) -> None:
        """Takes a method's sketches of the tasks for those of the start: later evaluations are compared with them."""
        method.eval()
        model, passes = Evaluated(method, self._known), self._engine.passes(method)
        with torch.no_grad(), self._engine.inference():
            for index, task in enumerate(self._sequence.tasks):
                self._start[index] = task.evaluator.sketch(model, task, passes)
                self._require_finite(model, task)

    def evaluate(self, method: Method, session: int) -> Evaluation:
        """All tasks that are due after `session`, and the held-out classes."""
        method.eval()
        sequence, seen, model = self._sequence, self._sequence.seen(session), Evaluated(method, self._known)
        due = due_tasks(sequence, method, session)
        passes = self._engine.passes(method)
        verdicts, guesses = {}, []
        with torch.no_grad(), self._engine.inference():
            for index in due:
                verdicts[index] = self._judge_all(model, index, passes, seen)
            keeping = [index for index in sequence.keeping(session) if index in verdicts]
            kept = {index: verdicts[index].kept for index in keeping if sequence.tasks[index].session == session}
            self.keep(kept)
            verdicts |= self._searched(verdicts, keeping)
            for index, positions in self._shown(due).items():
                guesses += self._guess(model, index, positions, seen)
        judged = sum(len(sequence.tasks[index].samples) for index in due)
        return Evaluation(verdicts, judged, self.held_out(method), tuple(guesses), kept)

    def _judge_all(self, model: Evaluated, index: int, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        """What the task's evaluator finds and diagnoses, and what others find besides."""
        task = self._sequence.tasks[index]
        verdict = self._judge(model, task, passes, seen)
        scores = verdict.scores | task.evaluator.diagnose(verdict.sketch, self._start.get(index))
        for also in task.also:
            scores |= self._judge(model, replace(task, evaluator=also), passes, seen).scores
        return replace(verdict, scores=scores)

    def _searched(self, verdicts: Mapping[int, Verdict], keeping: Sequence[int]) -> dict[int, Verdict]:
        """The verdicts on tasks of which something is kept, with what is found there; none if some is not known."""
        if not self._kept.keys() >= set(keeping):
            return {}
        found, kept = {}, [self._kept[index] for index in keeping]
        for own, index in enumerate(keeping):
            verdict = verdicts[index]
            scores = self._sequence.tasks[index].evaluator.search(verdict.queries, kept, own)
            found[index] = replace(verdict, scores=verdict.scores | scores)
        return found

    def _judge(self, model: Evaluated, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        """What the task's evaluator finds, if it follows from numbers.

        Raises:
            NotFiniteError: on all processes, because of what the method gave on one.
        """
        try:
            verdict = task.evaluator.evaluate(model, task, passes, seen)
        except ContractError as error:
            raise ContractError(f"{error} on task {task.name}") from None
        self._require_finite(model, task)
        return verdict

    def _require_finite(self, model: Evaluated, task: Task) -> None:
        if not bool(self._engine.gather(model.finite.int()[None]).all()):
            raise NotFiniteError(
                f"{model.name} gave logits or features that are not finite on task {task.name}; lower optimizer.lr or "
                "use trainer.precision=32-true"
            )

    def _shown(self, due: Sequence[int]) -> dict[int, list[int]]:
        """Positions of `SHOWN` samples by task, spread evenly over the samples of these tasks."""
        places = [(index, sample) for index in due for sample in range(len(self._sequence.tasks[index].samples))]
        shown: dict[int, list[int]] = {}
        for position in sorted({round(float(p)) for p in np.linspace(0, len(places) - 1, SHOWN)}):
            index, sample = places[position]
            shown.setdefault(index, []).append(sample)
        return shown

    def _guess(self, model: Evaluated, index: int, positions: list[int], seen: Sequence[ClassSet]) -> list[Shown]:
        task = self._sequence.tasks[index]
        batch = task.samples.read(positions, model.backbone.resize).to(self._engine.device)
        found = task.evaluator.guesses(model, task, batch.with_images(model.backbone.normalize), seen)
        return [Shown(index, position, guess) for position, guess in zip(positions, found, strict=False)]

    def held_out(self, method: Method) -> float | None:
        """The entry score in % of the held-out classes among themselves."""
        task = self._sequence.held_out
        if task is None or not method.open_vocabulary:
            return None
        with torch.no_grad(), self._engine.inference():
            verdict = self._judge(Evaluated(method, self._known), task, self._engine.passes(method), ())
        return verdict.scores[task.evaluator.entry].value


def check_fit(method: type[Method] | Method, sequence: TaskSequence, augment: str) -> None:
    """Refuses a method that cannot learn or be judged by what a sequence holds, before anything is loaded.

    Raises:
        ConfigError: says what the method would need.
    """
    kind = method if isinstance(method, type) else type(method)
    name = kind.__name__
    # A method with image features of its own has none for patches, unless it says so.
    patches = kind.encode_patches is not Method.encode_patches or kind.encode_image is Method.encode_image
    for session in sequence.sessions:
        objective = session.objective
        if objective is not None and not _learns(method, objective):
            raise ConfigError(
                f"{name} learns from {method.learnt()}, but {sequence.name} has {objective.needs}; "
                "`everclip-list methods` shows which methods need no class labels"
            )
        if objective is not None and objective.patches and augment != "none":
            raise ConfigError(f"train.augment={augment} moves pictures away from their masks; use train.augment=none")
        if session.without_labels and method.needs_labels and not (method.open_vocabulary and session.classes):
            raise ConfigError(
                f"{name} learns classes from pictures with labels, but {sequence.name} has none of "
                f"{session.without_labels.names[0]!r}; choose another sequence, or a method that learns without labels"
            )
        if session.returning and not method.classes_return:
            raise ConfigError(f"{name} learns a class in one session, but {sequence.name} has the same again in others")
        if session.train.num_frames is not None and not method.takes_clips:
            raise ConfigError(f"{name} adapts to single pictures, but {sequence.name} has clips of several frames")
    for evaluator in (each for task in sequence.tasks for each in task.evaluators):
        if evaluator.open_vocabulary and not method.open_vocabulary:
            raise ConfigError(f"{name} scores trained classes only, but {sequence.name} compares pictures with texts")
        if evaluator.patches and not patches:
            raise ConfigError(f"{name} adapts features of whole pictures, but {sequence.name} needs those of patches")


def _learns(method: type[Method] | Method, objective: Objective) -> bool:
    own = {"pairs": objective.pairs, "order": objective.order, "moments": objective.moments}
    return objective.from_labels or method.any_objective or any(own[w] and getattr(method, f"learns_{w}") for w in own)
