"""Moments of clips that texts speak of, and what in them stands out.

Source of the protocol: arXiv 2107.09609 (QVHighlights; jayleicn/moment_detr @ b7e553a, standalone_eval).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
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
        widths: list[int] = []
        rows = passes.samples(task.samples, _answered(model, widths)).double().cpu()
        for row in rows:
            saliency, spans, moments, judged = (part.numpy() for part in row.split(widths))
            right = moments.reshape(-1, 2)
            spans = spans.reshape(-1, 2)
            right, spans = right[right[:, 1] >= 0], spans[spans[:, 1] >= 0]
            scores = moment_scores(spans, right) if len(right) else {}
            found.append(scores | highlight_scores(saliency, judged.reshape(len(saliency), -1).astype(np.int64)))
        names = dict.fromkeys(name for scores in found for name in scores)
        values = {name: [scores[name] for scores in found if name in scores] for name in names}
        return Verdict({name: Score(float(np.mean(own)), len(own)) for name, own in values.items()})


def _answered(model: Model, widths: list[int]) -> Callable[[Batch], Tensor]:
    """Gives, flat and one after the other, each clip's saliency and moments as the model has them and as they are.

    `widths` becomes their lengths.
    """

    def answer(batch: Batch) -> Tensor:
        answered = model.moments(batch.images, batch.texts or ())
        parts = [answered.saliency, answered.spans[:, :MOST], *targets_of(batch)]
        flat = [part.flatten(1).float() for part in parts]
        widths[:] = [part.shape[1] for part in flat]
        return torch.cat(flat, dim=1)

    return answer
