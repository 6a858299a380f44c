"""Ordering of pictures by a text: their scores against their values.

Source of the protocol: arXiv 2412.06760 (uynaes/RankingAwareCLIP @ 05fc5c5, scripts/inference.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from everclip.metrics.ordering import ENTRY, Numbers, plcc, srcc
from everclip.metrics.scores import Score
from everclip.objectives.ordering import values_of
from everclip.types import Batch, ClassSet, Evaluator, Model, Passes, Task, Verdict


@dataclass(frozen=True)
class Ordering(Evaluator):
    """`srcc` and `plcc`, Spearman's and Pearson's correlation in %, and `mae` in the unit of the values.

    A class is a text that its pictures are ordered by: a picture's score is its logit for it. Of several classes the
    mean counts. The error says something of methods alone that learn the values.
    """

    entry = ENTRY
    open_vocabulary = True

    @property
    @override
    def identity(self) -> str:
        return "ordering"

    @override
    def evaluate(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        found = []
        for position in range(len(task.classes)):
            one = task.classes.select([position])
            samples = task.samples if len(task.classes) == 1 else task.samples.subset(task.samples.indices_of(one))
            rows = passes.samples(samples, _scored(model.classifier(one)), by_features=True)
            found.append(_measured(*rows.double().cpu().numpy().T))
        return Verdict(
            {name: Score(float(np.mean([of[name] for of in found])), len(task.samples)) for name in found[0]}
        )


def _scored(classify: Callable[[Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    """Gives score and value (B, 2) of each picture of a batch."""
    return lambda batch: torch.stack([classify(batch.images)[:, 0].float(), values_of(batch)], dim=1)


def _measured(scores: Numbers, values: Numbers) -> dict[str, float]:
    return {
        ENTRY: 100 * srcc(scores, values),
        "plcc": 100 * plcc(scores, values),
        "mae": float(np.abs(scores - values).mean()),
    }
