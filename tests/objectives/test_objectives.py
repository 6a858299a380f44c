"""The losses of objectives against formulas written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from everclip.errors import DataError
from everclip.objectives.contrastive import Contrastive
from everclip.objectives.segmentation import Segmentation
from everclip.types import NO_CLASS, Batch, ClassSet
from tests.evaluation.conftest import Table

NO_CLASSES = ClassSet((), ())
CLASSES = ClassSet((4, 7), ("0", "1"))


def batch(images: torch.Tensor, **parts: object) -> Batch:
    rows = torch.arange(len(images))
    return Batch(images, torch.full_like(rows, NO_CLASS), rows, **parts)  # type: ignore[arg-type]  # as the tests say


def test_contrastive_is_the_mean_of_both_directions() -> None:
    draw = torch.Generator().manual_seed(0)
    model = Table(torch.randn(3, 5, generator=draw), torch.randn(3, 5, generator=draw))
    shown = batch(torch.arange(3.0)[:, None, None, None], texts=("2", "0", "1"))
    logits = 10 * model.pictures @ model.texts[[2, 0, 1]].T
    by_row = [-(row[i] - row.logsumexp(0)) for i, row in enumerate(logits)]
    by_column = [-(column[i] - column.logsumexp(0)) for i, column in enumerate(logits.T)]
    expected = (sum(by_row) / 3 + sum(by_column) / 3) / 2
    torch.testing.assert_close(Contrastive().loss(model, shown, NO_CLASSES, 0.0)["contrastive"], expected)


def test_what_an_objective_needs_must_be_there() -> None:
    model = Table(torch.eye(2), torch.eye(2))
    for objective, text in ((Contrastive(), "have no texts"), (Segmentation(), "have none")):
        with pytest.raises(DataError, match=text):
            objective.loss(model, batch(torch.zeros(2, 1, 1, 1)), CLASSES, 0.0)


def test_pixels_without_a_class_teach_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    model = Table(torch.randn(2, 5, generator=draw), torch.randn(2, 5, generator=draw))
    mask = torch.tensor([[[4, NO_CLASS], [7, 99]]])
    shown = batch(torch.tensor([[[[0, 1], [1, 0]]]]), targets={"mask": mask})
    logits = 10 * model.pictures[torch.tensor([0, 1])] @ model.texts.T
    expected = F.cross_entropy(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(Segmentation().loss(model, shown, CLASSES, 0.0)["cross_entropy"], expected)


def test_masks_in_parts_are_learnt_like_the_whole_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    model = Table(torch.randn(2, 5, generator=draw), torch.randn(2, 5, generator=draw))
    images = torch.tensor([[[[0, 1], [1, 0]]], [[[1, 1], [0, 1]]], [[[0, 0], [0, 1]]]])
    none = torch.full((2, 2), NO_CLASS)  # a picture without a class counts as one, with loss 0
    masks = torch.stack([torch.tensor([[4, NO_CLASS], [NO_CLASS, NO_CLASS]]), torch.tensor([[4, 4], [7, 7]]), none])

    def loss(rows: slice) -> torch.Tensor:
        shown = batch(images[rows], targets={"mask": masks[rows]})
        return Segmentation().loss(model, shown, CLASSES, 0.0)["cross_entropy"]

    parts = (loss(slice(0, 1)) + 2 * loss(slice(1, 3))) / 3
    torch.testing.assert_close(parts, loss(slice(0, 3)))
