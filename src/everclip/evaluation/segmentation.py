"""Zero-shot segmentation: every patch is compared with the class texts, the logits are resized to the mask.

Source of the protocol: arXiv 2112.01071 (patch features of CLIP and class texts, pixels of no class left out).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from everclip.errors import DataError
from everclip.metrics.dense import ENTRY
from everclip.metrics.scores import Score
from everclip.objectives.segmentation import mask_columns, patch_logits
from everclip.types import Batch, ClassSet, Evaluator, Model, Passes, Task, Verdict


@dataclass(frozen=True)
class Segmentation(Evaluator):
    """`miou`: mean intersection over union of the classes that occur, and `pixel_accuracy`, in %.

    Pixels are compared with all classes seen so far; those of no class are left out.
    """

    entry = ENTRY
    open_vocabulary = True
    patches = True

    @property
    @override
    def identity(self) -> str:
        return "segmentation"

    @override
    def evaluate(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        classes = ClassSet.union(seen)
        features = model.class_features(classes)

        def count(batch: Batch) -> Tensor:
            """Pixels (B, 3, C): common, predicted, true."""
            if batch.targets is None:
                raise DataError(f"task {task.name} has no masks to be judged by")
            target = mask_columns(batch.targets["mask"], classes)
            logits = patch_logits(model.encode_patches(batch.images), features, target.shape[-2:])
            return _pixels(logits.argmax(dim=1), target, len(classes))

        common, predicted, true = passes.samples(task.samples, count).sum(dim=0).cpu().double()
        share = (common / (predicted + true - common))[true > 0]
        pictures = len(task.samples)
        return Verdict(
            {
                ENTRY: Score(100 * float(share.mean()), pictures),
                "pixel_accuracy": Score.share(int(common.sum()), int(true.sum())),
            }
        )


def _pixels(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Common, predicted and true pixels (B, 3, C) of each class, where the target (B, H, W) is not negative."""
    known = target >= 0
    kinds = ((known & (predicted == target), target), (known, predicted), (known, target))
    # Summed one by one: a pixel has a value for every class until then.
    rows = [F.one_hot(torch.where(kind, value, classes).flatten(1), classes + 1).sum(dim=1) for kind, value in kinds]
    return torch.stack(rows, dim=1)[:, :, :classes].int()
