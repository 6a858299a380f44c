"""Counts correct predictions per task: one row of the accuracy matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from everclip.engine import Engine
from everclip.errors import DataError
from everclip.methods.base import Classifier, Method
from everclip.types import ClassSet, Task, TaskSequence


class CorrectCount(Metric):
    """Correct and tested pictures, summed over all processes."""

    correct: Tensor
    tested: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("tested", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        self.correct += (predicted == target).sum()
        self.tested += len(target)

    def compute(self) -> tuple[Tensor, Tensor]:
        return self.correct, self.tested


@dataclass(frozen=True)
class Evaluation:
    """Correct and tested pictures per task after a session.

    Attributes:
        correct: by task index.
        counts: by task index.
        held_out: accuracy in % on the classes never trained on; None where it does not apply.
    """

    correct: dict[int, int]
    counts: dict[int, int]
    held_out: float | None

    @property
    def num_images(self) -> int:
        """Pictures classified for the matrix."""
        return sum(self.counts.values())


class Evaluator:
    """Evaluates a method on a sequence; what depends on classes alone is computed once per evaluation."""

    def __init__(self, engine: Engine, sequence: TaskSequence) -> None:
        self._engine = engine
        self._sequence = sequence

    def evaluate(self, method: Method, session: int) -> Evaluation:
        """All tasks that are due after `session`, and the held-out classes."""
        method.eval()
        classifiers: dict[ClassSet, Classifier] = {}
        correct, counts = {}, {}
        with torch.no_grad(), self._engine.inference():
            due = self._sequence.evaluated(session)
            for index in due if method.open_vocabulary else due[: session + 1]:
                classes = self._sequence.candidates(session, index)
                if classes not in classifiers:
                    classifiers[classes] = method.classifier(classes)
                task = self._sequence.tasks[index]
                correct[index], counts[index] = self._count(method, task, classes, classifiers[classes])
        return Evaluation(correct, counts, self.held_out(method))

    def held_out(self, method: Method) -> float | None:
        """Accuracy in % on the held-out classes among themselves."""
        task = self._sequence.held_out
        if task is None or not method.open_vocabulary:
            return None
        with torch.no_grad(), self._engine.inference():
            correct, tested = self._count(method, task, task.classes, method.classifier(task.classes))
        return 100 * correct / tested

    def _count(self, method: Method, task: Task, classes: ClassSet, classify: Classifier) -> tuple[int, int]:
        count = CorrectCount().to(self._engine.device)
        for batch in self._engine.batches(task.test, method):
            logits = classify(batch.images)
            count.update(logits.argmax(dim=-1), classes.columns(batch.labels))
        correct, tested = (int(value) for value in count.compute())
        if tested != len(task.test):
            raise DataError(f"task {task.name} has {len(task.test)} test pictures, but {tested} were counted")
        return correct, tested
