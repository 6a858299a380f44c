"""Learning from class labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from everclip.types import Batch, ClassSet, Model, Objective


@dataclass(frozen=True)
class Classification(Objective):
    """Cross-entropy among classes."""

    needs = "class labels"
    from_labels = True

    @override
    def rows(self, model: Model, classes: ClassSet) -> Callable[[Batch], tuple[Tensor, ...]]:
        classify = model.classifier(classes)
        return lambda batch: (classify(batch.images), classes.columns(batch.labels))

    @override
    def compare(self, model: Model, rows: Sequence[Tensor], label_smoothing: float) -> dict[str, Tensor]:
        logits, target = rows
        return {"cross_entropy": F.cross_entropy(logits, target, label_smoothing=label_smoothing)}
