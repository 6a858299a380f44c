"""Counts correct predictions per task: one row of the accuracy matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from everclip.errors import DataError
from everclip.methods.base import Classifier, Method
from everclip.training.engine import Engine
from everclip.types import ClassSet, Task, TaskSequence

SHOWN = 8


class CorrectCount(Metric):
    """Correct pictures, and tested ones by the group of the predicted class, summed over all processes.

    Args:
        groups: (C,) group of each class.
    """

    correct: Tensor
    predicted: Tensor

    def __init__(self, groups: Tensor) -> None:
        super().__init__()
        self._groups = groups
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("predicted", torch.zeros(int(groups.max()) + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        self.correct += (predicted == target).sum()
        groups = self._groups.to(predicted.device)[predicted]
        self.predicted += torch.nn.functional.one_hot(groups, len(self.predicted)).sum(dim=0)

    def compute(self) -> tuple[Tensor, Tensor]:
        return self.correct, self.predicted


@dataclass(frozen=True)
class Guess:
    """What a method takes one test picture for.

    Attributes:
        task: index.
        image: position in the task's test set.
        label: true class name.
        names: the likeliest class names with their probability, best first.
    """

    task: int
    image: int
    label: str
    names: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Evaluation:
    """Correct and tested pictures per task after a session.

    Attributes:
        correct: by task index.
        counts: by task index.
        predicted: by task index, how many pictures were taken for a class of each session so far.
        held_out: accuracy in % on the classes never trained on; None where it does not apply.
        guesses: some pictures, spread evenly over the test sets.
    """

    correct: dict[int, int]
    counts: dict[int, int]
    predicted: dict[int, list[int]]
    held_out: float | None
    guesses: tuple[Guess, ...]

    @property
    def num_images(self) -> int:
        """Pictures classified for the matrix."""
        return sum(self.counts.values())


class Evaluator:
    """Evaluates a method on a sequence; what depends on classes alone is computed once per evaluation."""

    def __init__(self, engine: Engine, sequence: TaskSequence) -> None:
        self._engine = engine
        self._sequence = sequence
        self._session_of = {c: session.index for session in reversed(sequence.sessions) for c in session.new.ids}

    def evaluate(self, method: Method, session: int) -> Evaluation:
        """All tasks that are due after `session`, and the held-out classes."""
        method.eval()
        classifiers: dict[ClassSet, Classifier] = {}
        correct, counts, predicted = {}, {}, {}
        due = self._sequence.evaluated(session)
        due = due if method.open_vocabulary else due[: session + 1]
        with torch.no_grad(), self._engine.inference():
            for index in due:
                classes = self._sequence.candidates(session, index)
                if classes not in classifiers:
                    classifiers[classes] = method.classifier(classes)
                task = self._sequence.tasks[index]
                correct[index], predicted[index] = self._count(method, task, classes, classifiers[classes])
                counts[index] = sum(predicted[index])
            guesses: list[Guess] = []
            for index, images in self._shown(due).items():
                classes = self._sequence.candidates(session, index)
                guesses += self._guess(method, index, images, classes, classifiers[classes])
        return Evaluation(correct, counts, predicted, self.held_out(method), tuple(guesses))

    def _shown(self, due: Sequence[int]) -> dict[int, list[int]]:
        """Positions of `SHOWN` pictures by task, spread evenly over the pictures of these tasks."""
        places = [(index, image) for index in due for image in range(len(self._sequence.tasks[index].test))]
        shown: dict[int, list[int]] = {}
        for position in sorted({round(float(p)) for p in np.linspace(0, len(places) - 1, SHOWN)}):
            index, image = places[position]
            shown.setdefault(index, []).append(image)
        return shown

    def _guess(
        self, method: Method, task: int, images: list[int], classes: ClassSet, classify: Classifier
    ) -> Iterator[Guess]:
        test = self._sequence.tasks[task].test
        pictures = method.backbone.normalize(test.images(images, method.backbone.resize).to(self._engine.device))
        best = classify(pictures).float().softmax(dim=-1).topk(min(3, len(classes)))
        labels = classes.columns(torch.as_tensor(test.labels[images])).tolist()
        for image, label, columns, values in zip(
            images, labels, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            names = tuple((classes.names[c], round(v, 4)) for c, v in zip(columns, values, strict=True))
            yield Guess(task, image, classes.names[label], names)

    def held_out(self, method: Method) -> float | None:
        """Accuracy in % on the held-out classes among themselves."""
        task = self._sequence.held_out
        if task is None or not method.open_vocabulary:
            return None
        with torch.no_grad(), self._engine.inference():
            correct, tested = self._count(method, task, task.classes, method.classifier(task.classes))
        return 100 * correct / sum(tested)

    def _count(self, method: Method, task: Task, classes: ClassSet, classify: Classifier) -> tuple[int, list[int]]:
        """Correct pictures, and tested ones by the session of the predicted class."""
        sessions = torch.tensor([self._session_of.get(class_id, 0) for class_id in classes.ids])
        count = CorrectCount(sessions).to(self._engine.device)
        for batch in self._engine.batches(task.test, method):
            logits = classify(batch.images)
            count.update(logits.argmax(dim=-1), classes.columns(batch.labels))
        correct, predicted = count.compute()
        tested = int(predicted.sum())
        if tested != len(task.test):
            raise DataError(f"task {task.name} has {len(task.test)} test pictures, but {tested} were counted")
        return int(correct), predicted.reshape(-1).tolist()  # torchmetrics squeezes a single group
