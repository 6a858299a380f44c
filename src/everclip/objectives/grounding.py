"""Learning where in clips the moments are that texts speak of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from everclip.errors import DataError
from everclip.types import Batch, ClassSet, Model, Objective

MOMENTS, JUDGED = "moments", "judged"  # among a batch's targets, see `everclip.data.grounded.GroundedClips`
VERY_GOOD = 4  # the best that an annotator says of a part, from 0


@dataclass(frozen=True)
class Grounding(Objective):
    """Among the frames of a clip, those within the text's moments are the most similar to it.

    The loss is minus the logarithm of their share in the softmax over the frames (as MIL-NCE has several positives,
    arXiv 1912.06430).
    """

    needs = "texts of moments in clips"
    moments = True

    @override
    def rows(self, model: Model, classes: ClassSet) -> Callable[[Batch], tuple[Tensor, ...]]:
        def compared(batch: Batch) -> tuple[Tensor, ...]:
            moments, _ = targets_of(batch)
            saliency = model.moments(batch.images, batch.texts or ()).saliency
            return saliency, inside(moments, saliency.shape[1])

        return compared

    @override
    def compare(self, model: Model, rows: Sequence[Tensor], label_smoothing: float) -> dict[str, Tensor]:
        saliency, right = rows
        logs = (model.backbone.logit_scale * saliency).log_softmax(dim=-1)
        shares = logs.masked_fill(~right, -torch.inf).logsumexp(dim=-1)
        return {"moments": -shares[right.any(dim=-1)].sum() / len(shares)}


def targets_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """The moments (B, M, 2) of a batch and what is judged of the parts of its clips (B, T, A).

    Raises:
        DataError: it has none.
    """
    if batch.targets is None or MOMENTS not in batch.targets:
        raise DataError("texts of moments in clips are to be learnt, but the samples have none")
    return batch.targets[MOMENTS], batch.targets[JUDGED]


def inside(moments: Tensor, parts: int) -> Tensor:
    """Which of so many equal parts of a clip have their middle in one of its moments (B, M, 2): (B, parts) bool."""
    middles = (torch.arange(parts, device=moments.device) + 0.5) / parts
    within = (moments[..., :1] <= middles) & (middles < moments[..., 1:])
    return within.any(dim=1)
