"""Learning from class labels."""

from __future__ import annotations

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
    def loss(self, model: Model, batch: Batch, classes: ClassSet, label_smoothing: float) -> dict[str, Tensor]:
        logits, target = model.classifier(classes)(batch.images), classes.columns(batch.labels)
        return {"cross_entropy": F.cross_entropy(logits, target, label_smoothing=label_smoothing)}
