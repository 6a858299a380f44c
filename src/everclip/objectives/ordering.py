"""Learning to order pictures by the values that they have for a text.

Source: arXiv 2412.06760 (uynaes/RankingAwareCLIP @ 05fc5c5, `ClipWithAdapterLoss`: the losses with a single score).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from everclip.errors import DataError
from everclip.losses.global_batch import global_rows
from everclip.losses.ordering import pair_loss, value_loss
from everclip.types import Batch, ClassSet, Model, Objective

VALUE = "value"  # of a picture, among a batch's targets
REGRESSION_WEIGHT = 0.2


@dataclass(frozen=True)
class Ordering(Objective):
    """A picture's logit for the text of its class is its value, and larger than those of pictures of smaller values.

    A class is a text that pictures are ordered by; only those of one class are compared.
    """

    needs = "pictures with values"
    order = True
    couples_batch = True

    @override
    def rows(self, model: Model, classes: ClassSet) -> Callable[[Batch], tuple[Tensor, ...]]:
        classify = model.classifier(classes)

        def scored(batch: Batch) -> tuple[Tensor, ...]:
            columns = classes.columns(batch.labels)
            return classify(batch.images).gather(1, columns[:, None])[:, 0], values_of(batch), columns

        return scored

    @override
    def compare(self, model: Model, rows: Sequence[Tensor], label_smoothing: float) -> dict[str, Tensor]:
        scores, values, own = rows
        return {
            "rank": pair_loss(scores[:, None] - scores[None], values, own[:, None] == own[None]),
            "regression": REGRESSION_WEIGHT * value_loss(scores, values),
        }

    @override
    def loss(self, model: Model, batch: Batch, classes: ClassSet, label_smoothing: float) -> dict[str, Tensor]:
        rows = global_rows(batch.indices, *self.rows(model, classes)(batch))
        return self.compare(model, rows, label_smoothing)


def values_of(batch: Batch) -> Tensor:
    """The values (B,) of the pictures of a batch.

    Raises:
        DataError: they have none.
    """
    if batch.targets is None or VALUE not in batch.targets:
        raise DataError("pictures are to be ordered by values, but the samples have none")
    return batch.targets[VALUE]
