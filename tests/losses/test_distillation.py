from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from everclip.losses.distillation import distillation, image_text_distillation, squared_distance


def test_distillation_by_hand() -> None:
    # softmax((0, 2 ln 3) / 2) = (1/4, 3/4); softmax((0, 0) / 2) = (1/2, 1/2)
    teacher, student = torch.tensor([[0.0, 2 * math.log(3)]]), torch.zeros(1, 2)
    assert float(distillation(student, teacher, 2.0)) == pytest.approx(4 * math.log(2))


def test_agreement_costs_the_teachers_entropy_and_pulls_nowhere() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    loss = distillation(logits, logits.detach(), 3.0)
    p = np.exp(logits.detach().numpy() / 3)
    p /= p.sum(axis=1, keepdims=True)
    assert float(loss.detach()) == pytest.approx(9 * -(p * np.log(p)).sum(axis=1).mean())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(gradient.abs().max()) < 1e-15


def test_both_directions_are_weighted() -> None:
    student, teacher, texts = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (2, 2, 3))
    teacher = teacher + 1
    losses = image_text_distillation(
        student,
        teacher,
        texts,
        scale=torch.tensor(7.0),
        indices=torch.arange(2),
        temperature=2.0,
        image_weight=5.0,
        text_weight=0.5,
    )
    own, known = 7 * student @ texts.T, 7 * teacher @ texts.T
    torch.testing.assert_close(losses["image_distillation"], 5 * distillation(own, known))
    torch.testing.assert_close(losses["text_distillation"], 0.5 * distillation(own.T, known.T))


def test_squared_distance_by_hand() -> None:
    there = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    assert squared_distance(there, [torch.tensor([0.0, 4.0]), torch.tensor([[3.5]])]) == 1 + 4 + 0.25
