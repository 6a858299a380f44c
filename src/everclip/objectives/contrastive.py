"""Learning from image-text pairs.

Source: arXiv 2103.00020, figure 3 (mlfoundations/open_clip, `ClipLoss`).
"""

from __future__ import annotations

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
    def loss(self, model: Model, batch: Batch, classes: ClassSet, label_smoothing: float) -> dict[str, Tensor]:
        if batch.texts is None:
            raise DataError("image-text pairs are to be learnt, but the samples have no texts")
        pictures, texts = global_rows(batch.indices, model.encode_image(batch.images), model.encode_text(batch.texts))
        logits = model.backbone.logit_scale * similarity(pictures, texts)
        target = torch.arange(len(logits), device=logits.device)
        both = [F.cross_entropy(rows, target, label_smoothing=label_smoothing) for rows in (logits, logits.T)]
        return {"contrastive": torch.stack(both).mean()}
