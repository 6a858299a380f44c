"""Sharpness follows the official code's own numbers (tests/golden/sharpness_official.json), and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.losses.sharpness import Loss, average_sharpness, worst_sharpness


def parts() -> tuple[nn.Module, list[Loss]]:
    draw = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    inputs = [torch.randn(10, 6, generator=draw, dtype=torch.float64) for _ in range(2)]
    labels = [torch.randint(4, (10,), generator=draw) for _ in range(2)]
    return net, [lambda x=x, y=y: F.cross_entropy(net(x), y) for x, y in zip(inputs, labels, strict=True)]


def test_it_follows_the_official_code(golden: Callable[[str], Any]) -> None:
    official = golden("sharpness_official")
    net, losses = parts()
    weights = list(net.parameters())
    before = [weight.detach().clone() for weight in weights]
    for radius, expected in official["average"].items():
        assert average_sharpness(losses, weights, float(radius), 5, seed=3) == pytest.approx(expected, rel=1e-9)
    for radius, expected in official["worst"].items():
        assert worst_sharpness(losses, weights, float(radius), 20) == pytest.approx(expected, rel=1e-9)
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_at_worst_a_square_rises_to_the_corner_of_the_box() -> None:
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    half_square: Loss = lambda: 0.5 * weights.square().sum()  # noqa: E731 (of the tensor above)
    radius = 0.25
    corner = (radius + radius**2 / 2) * weights.detach().square().sum()
    assert worst_sharpness([half_square], [weights], radius, 20) == pytest.approx(float(corner), rel=1e-3)


def test_without_a_radius_there_is_none() -> None:
    net, losses = parts()
    assert average_sharpness(losses, list(net.parameters()), 0.0, 2, seed=0) == 0
    assert worst_sharpness(losses, list(net.parameters()), 0.0, 5) == 0


def test_the_size_of_two_layers_that_cancel_does_not_matter() -> None:
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def sharpness(factor: float) -> float:
        draw = torch.Generator().manual_seed(2)
        first, second = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((3, 4), (4, 1)))
        weights = [(first * factor).requires_grad_(), (second / factor).requires_grad_()]
        loss: Loss = lambda: (inputs @ weights[0] @ weights[1]).square().mean()  # noqa: E731 (of the weights above)
        return worst_sharpness([loss], weights, 0.1, 10)

    assert sharpness(8.0) == pytest.approx(sharpness(1.0))


def test_of_weights_that_are_not_read_there_is_none() -> None:
    unread = torch.ones(3, requires_grad=True)
    assert worst_sharpness([lambda: torch.tensor(2.0)], [unread], radius=0.1, steps=3) == 0
    assert unread.equal(torch.ones(3))


def test_weights_that_are_not_asked_for_stay() -> None:
    net, losses = parts()
    first, others = next(net.parameters()), list(net.parameters())[1:]
    seen: list[list[Tensor]] = []

    def loss() -> Tensor:
        seen.append([weight.detach().clone() for weight in (first, *others)])
        return losses[0]()

    average_sharpness([loss], [first], 0.1, 2, seed=0)
    worst_sharpness([loss], [first], 0.1, 2)
    begun = seen[0]
    assert any(not torch.equal(now[0], begun[0]) for now in seen)
    assert all(torch.equal(a, b) for now in seen for a, b in zip(now[1:], begun[1:], strict=True))
