"""mIoU worked out by hand, and pixels that count for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from everclip.data.masks import MaskedImages
from everclip.evaluation.segmentation import Segmentation
from everclip.objectives.segmentation import mask_columns
from everclip.types import NO_CLASS, Batch, ClassSet, Draw, Indices, Prepare, Samples, Task
from tests.evaluation.conftest import Chunks, Table


class Grids(Samples):
    """Pictures (2, 2) of numbers, one per patch."""

    def __init__(self, numbers: list[list[list[int]]]) -> None:
        self.numbers = torch.tensor(numbers)
        self.labels = np.full(len(numbers), NO_CLASS)

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        return self.batch(self.numbers[list(indices)][:, None], indices)

    def subset(self, indices: Sequence[int] | Indices) -> Samples:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "grids"

    def version(self) -> str:
        return self.fingerprint()


CLASSES = ClassSet((3, 5, 9), ("0", "1", "2"))


@pytest.mark.parametrize("size", [1, 2])
def test_miou_is_worked_out_over_all_pictures_and_classes_that_occur(size: int) -> None:
    predicted = [[[0, 0], [1, 1]], [[0, 2], [1, 0]]]
    masks = np.array([[[3, 5], [5, NO_CLASS]], [[3, 3], [5, 3]]])
    task = Task("made", CLASSES, MaskedImages(Grids(predicted), masks), Segmentation())
    model = Table(torch.eye(3), torch.eye(3))
    scores = Segmentation().evaluate(model, task, Chunks(size), (CLASSES,)).scores
    # Class 3: common 3, predicted 4, true 4. Class 5: common 2, predicted 2, true 3. Class 9 does not occur.
    assert scores["miou"].value == pytest.approx(100 * (3 / 5 + 2 / 3) / 2)
    assert scores["pixel_accuracy"].value == pytest.approx(100 * 5 / 7)
    assert (scores["miou"].count, scores["pixel_accuracy"].count) == (2, 7)


def test_patches_are_resized_bilinearly_to_the_mask() -> None:
    masks = np.full((1, 4, 4), 5)
    masks[:, :, :2] = 3
    task = Task("made", CLASSES, MaskedImages(Grids([[[0, 1], [0, 1]]]), masks), Segmentation())
    scores = Segmentation().evaluate(Table(torch.eye(3), torch.eye(3)), task, Chunks(1), (CLASSES,)).scores
    assert scores["miou"].value == 100.0


def test_pixels_of_other_classes_have_no_column() -> None:
    columns = mask_columns(torch.tensor([[[9, 3, 4], [NO_CLASS, 5, 100]]]), CLASSES)
    assert columns.tolist() == [[[2, 0, NO_CLASS], [NO_CLASS, 1, NO_CLASS]]]
