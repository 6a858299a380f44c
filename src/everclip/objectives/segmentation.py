"""Learning from masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from everclip.errors import DataError
from everclip.types import NO_CLASS, Batch, ClassSet, Model, Objective


@dataclass(frozen=True)
class Segmentation(Objective):
    """Cross-entropy among classes from patch features: a picture's is the mean over its pixels that have a class.

    Every picture weighs the same, so a batch in parts or on several processes gives the loss of the whole one.
    """

    needs = "masks"
    patches = True
    all_parameters_used = False  # patch features are the last block's values: its queries, keys and MLP play no part

    @override
    def rows(self, model: Model, classes: ClassSet) -> Callable[[Batch], tuple[Tensor, ...]]:
        text = model.class_features(classes)

        def compared(batch: Batch) -> tuple[Tensor, ...]:
            if batch.targets is None:
                raise DataError("masks are to be learnt, but the samples have none")
            target = mask_columns(batch.targets["mask"], classes)
            similar = patch_logits(model.encode_patches(batch.images), text, target.shape[-2:])
            return model.backbone.logit_scale * similar, target

        return compared

    @override
    def compare(self, model: Model, rows: Sequence[Tensor], label_smoothing: float) -> dict[str, Tensor]:
        logits, target = rows
        losses = F.cross_entropy(
            logits, target, ignore_index=NO_CLASS, label_smoothing=label_smoothing, reduction="none"
        )
        pixels = (target != NO_CLASS).sum(dim=(1, 2)).clamp(min=1)
        return {"cross_entropy": (losses.sum(dim=(1, 2)) / pixels).mean()}


def patch_logits(patches: Tensor, classes: Tensor, size: torch.Size) -> Tensor:
    """Cosine similarities (B, C, H, W) of patches (B, G, G, E) with classes (C, E), resized bilinearly."""
    similar = torch.einsum("bhwe,ce->bchw", patches.float(), classes.float())
    return F.interpolate(similar, size, mode="bilinear", align_corners=False)


def mask_columns(mask: Tensor, classes: ClassSet) -> Tensor:
    """Positions (B, H, W) of a mask's global class ids among classes; `NO_CLASS` where a pixel has none of them."""
    columns = torch.full((max((*classes.ids, int(mask.max()))) + 2,), NO_CLASS, device=mask.device)
    columns[torch.tensor(classes.ids, device=mask.device)] = torch.arange(len(classes), device=mask.device)
    return columns[mask]  # the last entry is that of NO_CLASS
