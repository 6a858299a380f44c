"""Augmentation: what a picture becomes, and that nothing but its number and the key decide it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop
from typing_extensions import override

from everclip.backbones.open_clip import OpenClip
from everclip.data import augment as augmentation
from everclip.data.augment import Augmentation, augment
from everclip.data.images import ArrayImages
from everclip.methods.base import Method
from everclip.training.engine import Engine
from everclip.training.phases import Budget, Training
from everclip.training.schedules import Schedule
from everclip.types import Batch, Phase
from tests.methods.test_cpe_clip import make_session

KEY = (0, 1, 2)


def positions(count: int, side: int = 64) -> Tensor:
    """Pictures whose first channel is the column and whose second is the row, in steps of 4."""
    line = 4 * torch.arange(side, dtype=torch.uint8)
    picture = torch.stack([line.expand(side, side), line[:, None].expand(side, side), torch.zeros(side, side)])
    return picture.to(torch.uint8).expand(count, 3, side, side)


def seen(images: Tensor) -> tuple[Tensor, Tensor]:
    """Shares (B,) of the width and of the height that are left, from the slopes."""
    values = images.float()
    middle = images.shape[-1] // 2
    width = (values[:, 0, middle, -9] - values[:, 0, middle, 8]).abs() / (4 * (images.shape[-1] - 17))
    height = (values[:, 1, -9, middle] - values[:, 1, 8, middle]) / (4 * (images.shape[-1] - 17))
    return width, height


def test_none_and_flip() -> None:
    images = positions(64)
    assert torch.equal(augment(images, "none", KEY, torch.arange(64)), images)
    flipped = augment(images, "flip", KEY, torch.arange(64))
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    same = (flipped == images).all(dim=(1, 2, 3))
    assert torch.equal(mirrored, ~same)
    assert 16 < mirrored.sum() < 48


@pytest.mark.parametrize(("kind", "smallest"), [("crop", 0.9), ("crop_flip", 0.08)])
def test_crops_are_distributed_as_torchvisions(kind: Augmentation, smallest: float) -> None:
    images = augment(positions(400), kind, KEY, torch.arange(400))
    torch.manual_seed(0)
    params = [RandomResizedCrop.get_params(images[0], [smallest, 1], [3 / 4, 4 / 3]) for _ in range(400)]
    _, _, heights, widths = (torch.tensor(numbers) / 64 for numbers in zip(*params, strict=True))
    width, height = seen(images)
    points = torch.linspace(0, 1, 11)
    for ours, theirs in ((width * height, widths * heights), (width / height, widths / heights)):
        torch.testing.assert_close(ours.quantile(points), theirs.quantile(points), atol=0.08, rtol=0)
    mirrored = (images[:, 0, 32, -9].int() < images[:, 0, 32, 8].int()).float().mean()
    assert mirrored == pytest.approx(0.5 if kind == "crop_flip" else 0, abs=0.1)


def test_a_crop_lies_inside_the_picture_and_anywhere_in_it() -> None:
    images = augment(positions(400), "crop_flip", KEY, torch.arange(400)).float()
    left, top = images[:, 0].amin(dim=(1, 2)), images[:, 1].amin(dim=(1, 2))
    right, bottom = images[:, 0].amax(dim=(1, 2)), images[:, 1].amax(dim=(1, 2))
    for low, high in ((left, right), (top, bottom)):
        assert low.min() <= 4
        assert high.max() >= 248
        assert (low + high).mean() == pytest.approx(252, abs=12)


def test_no_crop_that_fits_leaves_the_whole_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "SMALLEST_AREA", {"crop": 1.0})
    images = positions(4)
    assert torch.equal(augment(images, "crop", KEY, torch.arange(4)), images)


@pytest.mark.parametrize("kind", ["flip", "crop", "crop_flip"])
def test_the_batch_does_not_matter_but_the_key_does(kind: Augmentation) -> None:
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    order = torch.tensor([4, 0, 5, 2])
    whole = augment(images, kind, KEY, torch.arange(6))
    assert torch.equal(augment(images[order], kind, KEY, order), whole[order])
    assert not torch.equal(augment(images, kind, (*KEY, 1), torch.arange(6)), whole)


class Recorder(Method):
    """Keeps the batches it is shown."""

    def __init__(self, backbone: OpenClip) -> None:
        super().__init__(backbone)
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches: list[Batch] = []

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        self.batches.append(batch)
        return {"nothing": self.weight}


class Unwatched:
    """Lets a phase run unseen."""

    stop = False

    def start(self, steps: int, steps_per_epoch: int) -> None:
        pass

    def ready(self) -> None:
        pass

    def after_step(self, losses: dict[str, float], lr: float, state: Any, stop: bool) -> None:
        pass


@pytest.mark.parametrize("augmented", [True, False])
def test_auxiliary_pictures_are_augmented_unless_the_phase_says_no(
    augmented: bool, tiny: Callable[[], OpenClip], engine: Engine
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    images, method = ArrayImages(pixels, np.arange(6) % 3, "random"), Recorder(tiny())
    session = replace(make_session(0), train=images)
    training = Training(Budget(1, 6), Budget(1, 6), torch.optim.SGD, Schedule(), augmentation="crop")
    phase = Phase(auxiliary=images, augment_auxiliary=augmented)
    engine.fit(method, session, phase, 0, training, Unwatched())
    (batch,) = method.batches
    assert batch.auxiliary is not None
    for shown, changed in ((batch, True), (batch.auxiliary, augmented)):
        plain = method.backbone.normalize(images.read(shown.indices.tolist(), method.backbone.resize).images)
        assert torch.allclose(shown.images, plain) != changed
