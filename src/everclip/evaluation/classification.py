"""Classification: the class with the highest logit is the sample's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from everclip.metrics.scores import Score
from everclip.types import Batch, ClassSet, Evaluator, Guess, Model, Passes, Task, Verdict, in_views

SHOWN = 3  # classes of a guess


@dataclass(frozen=True)
class Classification(Evaluator):
    """Accuracy in %.

    Attributes:
        among: what a sample is compared with: all classes `seen` so far, or its own `task`'s classes.
    """

    entry = "accuracy"
    among: Literal["seen", "task"] = "seen"

    @property
    @override
    def identity(self) -> str:
        return self.among

    def candidates(self, task: Task, seen: Sequence[ClassSet]) -> ClassSet:
        """The classes that a sample of the task is compared with."""
        return ClassSet.union(seen) if self.among == "seen" else task.classes

    @override
    def evaluate(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        """`accuracy`, and how many samples were `predicted` as a class of each session so far.

        A class that appears in several sessions counts for the first; one that no session so far has, for session 0.
        """
        classes = self.candidates(task, seen)
        classify = over_views(model.classifier(classes))
        predicted = passes.samples(
            task.samples, lambda batch: classify(batch.images).argmax(dim=-1), by_features=True
        ).cpu()
        correct = int((predicted == classes.columns(torch.from_numpy(task.samples.labels))).sum())
        session_of = {c: session for session, new in reversed(list(enumerate(seen))) for c in new.ids}
        sessions = torch.tensor([session_of.get(class_id, 0) for class_id in classes.ids])
        counts = sessions[predicted].bincount(minlength=int(sessions.max()) + 1)
        return Verdict({"accuracy": Score.share(correct, len(predicted))}, {"predicted": counts.tolist()})

    @override
    def loss(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> float:
        classes = self.candidates(task, seen)
        classify = over_views(model.classifier(classes))

        def of_each(batch: Batch) -> Tensor:
            columns = classes.columns(batch.labels)
            return F.cross_entropy(classify(batch.images).float(), columns, reduction="none")

        return float(passes.samples(task.samples, of_each, by_features=True).mean())

    @override
    def guesses(self, model: Model, task: Task, batch: Batch, seen: Sequence[ClassSet]) -> list[Guess]:
        classes = self.candidates(task, seen)
        classify = over_views(model.classifier(classes))
        best = classify(batch.images).float().softmax(dim=-1).topk(min(SHOWN, len(classes)))
        labels = classes.columns(batch.labels).tolist()
        return [
            Guess(classes.names[label], _named(classes, columns, values))
            for label, columns, values in zip(labels, best.indices, best.values, strict=True)
        ]


def over_views(classify: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Logits (B, C), of samples in several views (B, V, ...) the logarithm of their mean probabilities.

    Samples are pictures (B, 3, S, S), clips (B, T, 3, S, S) or features (B, D).
    """

    def classified(images: Tensor) -> Tensor:
        if not in_views(images):
            return classify(images)
        logits = classify(images.flatten(0, 1)).float().unflatten(0, images.shape[:2])
        return logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(images.shape[1])

    return classified


def _named(classes: ClassSet, columns: Tensor, values: Tensor) -> tuple[tuple[str, float], ...]:
    return tuple((classes.names[c], round(v, 4)) for c, v in zip(columns.tolist(), values.tolist(), strict=True))
