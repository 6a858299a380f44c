"""Moments of clips that texts speak of, and what in them stands out.

Source of the protocol: arXiv 2107.09609 (QVHighlights; jayleicn/moment_detr @ b7e553a, standalone_eval).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from everclip.metrics.grounding import ENTRY, highlight_scores, moment_scores
from everclip.metrics.scores import Score
from everclip.objectives.grounding import targets_of
from everclip.types import Batch, ClassSet, Evaluator, Model, Passes, Task, Verdict

MOST = 10  # moments of a text that count


@dataclass(frozen=True)
class Grounding(Evaluator):
    """`moment_map`, and all else of `everclip.metrics.grounding`: means over texts."""

    entry = ENTRY
    open_vocabulary = True

    @property
    @override
    def identity(self) -> str:
        return "grounding"

    @override
    def evaluate(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        found = []
        moments, judged = targets_of(task.samples.read([0], model.backbone.resize))  # a process may get no sample
        widths = [judged.shape[1], 2 * MOST, moments.numel(), judged.numel()]
        for row in passes.samples(task.samples, _answered(model)).double().cpu():
            saliency, spans, moments, judged = (part.numpy() for part in row.split(widths))
            right = moments.reshape(-1, 2)
            spans = spans.reshape(-1, 2)
            right, spans = right[right[:, 1] >= 0], spans[spans[:, 1] >= 0]
            scores = moment_scores(spans, right) if len(right) else {}
            found.append(scores | highlight_scores(saliency, judged.reshape(len(saliency), -1).astype(np.int64)))
        names = dict.fromkeys(name for scores in found for name in scores)
        values = {name: [scores[name] for scores in found if name in scores] for name in names}
        return Verdict({name: Score(float(np.mean(own)), len(own)) for name, own in values.items()})


def _answered(model: Model) -> Callable[[Batch], Tensor]:
    """Gives, flat and one after the other, each clip's saliency and moments as the model has them and as they are."""

    def answer(batch: Batch) -> Tensor:
        saliency, spans = model.moments(batch.images, batch.texts or ())
        spans = F.pad(spans[:, :MOST], (0, 0, 0, max(MOST - spans.shape[1], 0)), value=-1)
        return torch.cat([part.flatten(1).float() for part in (saliency, spans, *targets_of(batch))], dim=1)

    return answer
