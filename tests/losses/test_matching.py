"""Losses of pictures and texts against formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from everclip.losses.matching import alignment, class_matching, consolidation, matching


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pairs_are_matched_as_by_clip() -> None:
    logits = rows(4, 4)
    target = torch.arange(4)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(matching(logits, target), expected)


def test_a_text_of_several_pictures_may_find_any_and_one_of_none_finds_nothing() -> None:
    logits, own = rows(3, 3).requires_grad_(), torch.tensor([2, 0, 2])
    by_picture = -sum(logits.log_softmax(1)[i, m] for i, m in enumerate(own)) / 3
    shares = logits.softmax(0)
    by_text = -(shares[1, 0].log() + (shares[0, 2] + shares[2, 2]).log()) / 2
    loss = matching(logits, own)
    torch.testing.assert_close(loss, (by_picture + by_text) / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()


def test_texts_of_one_class_share_the_target() -> None:
    logits = rows(3, 3)
    near, far = math.exp(10) / (2 * math.exp(10) + 1), 1 / (2 * math.exp(10) + 1)
    one, other = math.exp(10) / (math.exp(10) + 2), 1 / (math.exp(10) + 2)
    target = torch.tensor([[near, far, near], [other, one, other], [near, far, near]], dtype=torch.float64)
    by_picture, by_text = ((target * (target.log() - x.log_softmax(1))).sum() / 3 for x in (logits, logits.T))
    torch.testing.assert_close(class_matching(logits, torch.tensor([7, 2, 7])), (by_picture + by_text) / 2)
    peaked = torch.where(target > 0.3, 30.0, 0.0).double()
    assert class_matching(peaked, torch.tensor([7, 2, 7])) < 3e-3  # what is far keeps a little


def test_two_pairs_are_aligned_by_hand() -> None:
    student = torch.tensor([[0.2, 0.1], [0.3, 0.4]], dtype=torch.float64)
    teacher = torch.tensor([[0.5, 0.1], [0.9, 0.6]], dtype=torch.float64)  # wrong about picture 1 and text 0

    def divergence(old: list[float], new: list[float]) -> torch.Tensor:
        p, q = (torch.tensor(values, dtype=torch.float64).softmax(0) for values in (old, new))
        return (p * (p / q).log()).sum()

    expected = (divergence([0.5, 0.1], [0.2, 0.1]) + divergence([0.1, 0.6], [0.1, 0.4])) / 2
    torch.testing.assert_close(alignment(student, teacher, torch.arange(2)), expected)
    torch.testing.assert_close(alignment(student.T, teacher.T, torch.arange(2)), expected)


def test_where_the_teacher_is_wrong_nothing_is_learnt() -> None:
    student = rows(2, 2).requires_grad_()
    loss = alignment(student, torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64), torch.arange(2))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("size", [3.0, 0.2])
def test_consolidation_is_blind_to_the_length_of_features(size: float) -> None:
    new, old = rows(5, 4), rows(5, 4, seed=1)
    logits = F.normalize(new, dim=1) @ F.normalize(old, dim=1).T / 0.07
    expected = -(logits.log_softmax(0) + logits.log_softmax(1)).diagonal().mean() / 2
    torch.testing.assert_close(consolidation(size * new, old, 0.07), expected)
