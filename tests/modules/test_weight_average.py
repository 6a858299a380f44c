from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from everclip.modules.weight_average import EpochAverage, WeightAverage, interpolate


def make() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(2, 3), (4,)]]


def move(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter += torch.randn(parameter.shape, generator=generator)


def copies(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def test_the_ends_of_the_interpolation_are_exact() -> None:
    parameters, anchors = make(), [torch.randn(2, 3), torch.randn(4)]
    before = copies(parameters)
    interpolate(parameters, anchors, 1.0)
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    interpolate(parameters, anchors, 0.25)
    torch.testing.assert_close(parameters[1].detach(), 0.75 * anchors[1] + 0.25 * before[1])
    interpolate(parameters, anchors, 0.0)
    assert all(torch.equal(p, a) for p, a in zip(parameters, anchors, strict=True))


def test_the_average_is_the_mean_of_the_start_and_every_kth_step() -> None:
    parameters, average = make(), WeightAverage(3)
    snapshots = [copies(parameters)]
    average.start(parameters)
    for step in range(8):
        move(parameters, step + 1)
        average.after_step(parameters)
        if step in (0, 3, 6):
            snapshots.append(copies(parameters))
    end = copies(parameters)
    assert all(torch.equal(p, e) for p, e in zip(parameters, end, strict=True))
    average.finish(parameters)
    for position, parameter in enumerate(parameters):
        mean = torch.stack([snapshot[position] for snapshot in snapshots]).mean(dim=0)
        torch.testing.assert_close(parameter.detach(), mean)
    assert parameters[0].untyped_storage().data_ptr() != parameters[1].untyped_storage().data_ptr()


def test_an_interrupted_average_goes_on_from_its_state() -> None:
    parameters, average = make(), WeightAverage(2)
    average.start(parameters)
    for step in range(3):
        move(parameters, step + 1)
        average.after_step(parameters)
    saved = {name: value.clone() for name, value in average.state_dict().items()}
    other = WeightAverage(2)
    other.start(parameters)
    other.load_state_dict(saved)
    for one in (average, other):
        one.after_step(parameters)
    move(parameters, 9)
    for one in (average, other):
        one.after_step(parameters)
    assert torch.equal(average.mean, other.mean)


def test_between_sessions_nothing_is_kept() -> None:
    parameters, average = make(), WeightAverage(1)
    average.start(parameters)
    average.finish(parameters)
    assert average.mean.numel() == 0


@pytest.mark.parametrize(("peak", "spread"), [(2.0, 1.0), (45.0, 0.5)])
def test_epochs_count_by_a_gaussian_of_their_number(peak: float, spread: float) -> None:
    parameters, average = make(), EpochAverage(peak, spread)
    average.start(parameters)
    weights = torch.softmax(-0.5 * ((torch.arange(1, 5).double() - peak) / spread) ** 2, dim=0)
    expected = torch.zeros(4)
    for epoch in range(4):
        move(parameters, epoch + 1)
        average.after_epoch(parameters)
        expected += weights[epoch] * parameters[1].detach()
    average.finish(parameters)
    torch.testing.assert_close(parameters[1].detach(), expected, rtol=1e-6, atol=1e-6)


def test_an_average_over_epochs_goes_on_from_its_state() -> None:
    parameters, average = make(), EpochAverage(2.0, 1.0)
    average.start(parameters)
    move(parameters, 1)
    average.after_epoch(parameters)
    saved = {name: value.clone() for name, value in average.state_dict().items()}
    other = EpochAverage(2.0, 1.0)
    other.start(parameters)
    other.load_state_dict(saved)
    move(parameters, 2)
    for one in (average, other):
        one.after_epoch(parameters)
    assert torch.equal(average.mean, other.mean)
