"""The losses of objectives against formulas written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from everclip.errors import DataError
from everclip.losses.ordering import pair_loss, pair_targets, value_loss
from everclip.objectives.contrastive import Contrastive
from everclip.objectives.ordering import Ordering
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
    needs = ((Contrastive(), "have no texts"), (Segmentation(), "have none"), (Ordering(), "have none"))
    for objective, text in needs:
        shown = replace(batch(torch.zeros(2, 1, 1, 1)), labels=torch.tensor([4, 7]))
        with pytest.raises(DataError, match=text):
            objective.loss(model, shown, CLASSES, 0.0)


def test_pairs_of_one_class_are_ordered_by_their_scores() -> None:
    draw = torch.Generator().manual_seed(0)
    model = Table(torch.randn(4, 5, generator=draw), torch.randn(2, 5, generator=draw))
    values = torch.tensor([1.0, 3.0, 2.0, 2.0])
    shown = batch(torch.arange(4.0)[:, None, None, None], targets={"value": values})
    labels = torch.tensor([4, 4, 7, 4])
    losses = Ordering().loss(model, replace(shown, labels=labels), CLASSES, 0.0)
    scores = (model.pictures * model.texts[[0, 0, 1, 0]]).sum(dim=1)
    pairs = [(i, j) for i in range(4) for j in range(4) if labels[i] == labels[j]]
    each = [-F.logsigmoid((scores[i] - scores[j]) * (1 if values[i] > values[j] else -1)) for i, j in pairs]
    torch.testing.assert_close(losses["rank"], torch.stack(each).mean())
    distance = (scores - values).abs()
    smooth = torch.where(distance < 1, distance**2 / 2, distance - 0.5).mean()
    torch.testing.assert_close(losses["regression"], 0.2 * torch.log(1 + smooth))


def test_losses_of_an_order_at_their_limits() -> None:
    values = torch.tensor([0.0, 1.0, 1.0])
    assert pair_targets(values).flatten().tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 0]
    torch.testing.assert_close(pair_loss(torch.zeros(3, 3), values), torch.tensor(2.0).log())
    assert value_loss(values, values) == 0


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
