"""Learning from image-text pairs.

Source: arXiv 2103.00020, figure 3 (mlfoundations/open_clip, `ClipLoss`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from everclip.errors import DataError
from everclip.losses.global_batch import global_rows
from everclip.losses.similarity import similarity
from everclip.types import Batch, ClassSet, Model, Objective


@dataclass(frozen=True)
class Contrastive(Objective):
    """CLIP's loss: each picture finds its text among those of the whole batch, and each text its picture."""

    needs = "image-text pairs"
    pairs = True
    couples_batch = True

    @override
    def rows(self, model: Model, classes: ClassSet) -> Callable[[Batch], tuple[Tensor, ...]]:
        def features(batch: Batch) -> tuple[Tensor, ...]:
            if batch.texts is None:
                raise DataError("image-text pairs are to be learnt, but the samples have no texts")
            return model.encode_image(batch.images), model.encode_text(batch.texts)

        return features

    @override
    def compare(self, model: Model, rows: Sequence[Tensor], label_smoothing: float) -> dict[str, Tensor]:
        return {"contrastive": contrastive(*rows, scale=model.backbone.logit_scale, label_smoothing=label_smoothing)}

    @override
    def loss(self, model: Model, batch: Batch, classes: ClassSet, label_smoothing: float) -> dict[str, Tensor]:
        rows = global_rows(batch.indices, *self.rows(model, classes)(batch))
        return self.compare(model, rows, label_smoothing)


def contrastive(pictures: Tensor, texts: Tensor, *, scale: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """CLIP's loss (scalar) of features (B, E) of pictures and of their texts: the mean over both directions.

    Args:
        pictures: of length 1.
        texts: of length 1; row i belongs to picture i.
        scale: of the similarities.
        label_smoothing: share of the target spread over all.
    """
    logits = scale * similarity(pictures, texts)
    target = torch.arange(len(logits), device=logits.device)
    both = [F.cross_entropy(rows, target, label_smoothing=label_smoothing) for rows in (logits, logits.T)]
    return torch.stack(both).mean()
