"""Augmentation: what a picture becomes, and that nothing but its number and the key decide it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor
from typing_extensions import override

from everclip.backbones.open_clip import OpenClip
from everclip.data.augment import Augmentation, RandomView
from everclip.data.cache import CachedImages, cache_all
from everclip.data.images import ArrayImages, ConcatSamples, FileImages, Relabelled
from everclip.methods.base import Method
from everclip.training.engine import Engine
from everclip.training.phases import Budget, Training
from everclip.training.schedules import Schedule
from everclip.types import Batch, Draw, Phase, Samples
from tests.methods.test_cpe_clip import make_session
from tests.unwatched import Unwatched

KEY = (0, 1, 2, 3)
NOISE = np.random.Generator(np.random.PCG64(0))
SIZES = [(90, 40), (33, 70), (20, 31), (32, 32), (300, 20), (64, 48)]


def prepare(image: Image.Image) -> Tensor:
    return pil_to_tensor(image)


def resize(image: Image.Image) -> Tensor:
    return pil_to_tensor(image.resize((32, 32)))


def shown(pixels: NDArray[np.uint8], kind: Augmentation, key: tuple[int, ...] = KEY) -> Tensor:
    """Square pictures (N, S, S, 3) as training sees them."""
    images = ArrayImages(pixels, np.zeros(len(pixels), np.int64), "made")
    return images.read(range(len(pixels)), prepare, Draw(key, view=RandomView(kind, pixels.shape[1]))).images


def positions(count: int, side: int = 64) -> NDArray[np.uint8]:
    """Pictures whose first channel is the column and whose second is the row, in steps of 4."""
    line = np.broadcast_to(4 * np.arange(side, dtype=np.uint8), (side, side))
    return np.broadcast_to(np.stack([line, line.T, np.zeros_like(line)], axis=-1), (count, side, side, 3))


def seen(images: Tensor) -> tuple[Tensor, Tensor]:
    """Shares (B,) of the width and of the height that are left, from the slopes."""
    values = images.float()
    middle = images.shape[-1] // 2
    width = (values[:, 0, middle, -9] - values[:, 0, middle, 8]).abs() / (4 * (images.shape[-1] - 17))
    height = (values[:, 1, -9, middle] - values[:, 1, 8, middle]) / (4 * (images.shape[-1] - 17))
    return width, height


def files(root: Path) -> FileImages:
    """Pictures of several sizes."""
    paths = [root / f"{width}x{height}.png" for width, height in SIZES]
    for path, (width, height) in zip(paths, SIZES, strict=True):
        Image.fromarray(NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return FileImages(paths, np.arange(len(paths)), root)


def test_flip() -> None:
    images = torch.from_numpy(positions(64).copy()).permute(0, 3, 1, 2)
    flipped = shown(positions(64), "flip")
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    same = (flipped == images).all(dim=(1, 2, 3))
    assert torch.equal(mirrored, ~same)
    assert 16 < mirrored.sum() < 48


@pytest.mark.parametrize("kind", ["crop", "crop_flip", "crop_flip_bicubic", "half_crop_flip"])
@pytest.mark.parametrize("cache", ["off", "memory"])
def test_a_crop_is_torchvisions_of_the_picture_in_its_file(kind: Augmentation, cache: str, tmp_path: Path) -> None:
    """Pixel for pixel, for what torchvision draws from the same seed."""
    theirs = {
        "crop": RandomResizedCrop(32, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC),
        "crop_flip": RandomResizedCrop(32),
        "crop_flip_bicubic": RandomResizedCrop(32, interpolation=InterpolationMode.BICUBIC),
        "half_crop_flip": RandomResizedCrop(32, scale=(0.5, 1.0), interpolation=InterpolationMode.BICUBIC),
    }[kind]
    source: Samples = files(tmp_path)
    (source,) = cache_all([source], resize, None) if cache == "memory" else [source]
    whole = ConcatSamples([Relabelled(source, range(3, 9)), source])
    draw = Draw(KEY, view=RandomView(kind, 32))
    order = [3, 0, 11, 7, 6, 2, 10]
    before = torch.get_rng_state()
    for image, index in zip(whole.read(order, resize, draw).images, order, strict=True):
        stream = np.random.Generator(np.random.PCG64([*KEY, index]))
        mirrored = stream.random() < 0.5 and kind != "crop"
        with torch.random.fork_rng():
            torch.manual_seed(int(stream.integers(2**63)))
            width, height = SIZES[index % 6]
            expected = pil_to_tensor(theirs(Image.open(tmp_path / f"{width}x{height}.png")))
        assert torch.equal(image, expected.flip(-1) if mirrored else expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(whole.read([1], resize).images[0], resize(Image.open(tmp_path / "33x70.png")))


def test_a_cached_picture_is_mirrored_as_a_decoded_one(tmp_path: Path) -> None:
    source = files(tmp_path)
    (kept,) = cache_all([source], resize, None)
    assert isinstance(kept, CachedImages)
    draw = Draw(KEY, view=RandomView("flip", 32))
    expected = source.read(range(6), resize, draw).images
    for path in source.paths:
        path.unlink()
    assert torch.equal(kept.read(range(6), resize, draw).images, expected)
    assert not torch.equal(kept.read(range(6), resize).images, expected)


@pytest.mark.parametrize(("kind", "smallest"), [("crop", 0.9), ("crop_flip", 0.08)])
def test_crops_are_distributed_as_torchvisions(kind: Augmentation, smallest: float) -> None:
    images = shown(positions(400), kind)
    torch.manual_seed(0)
    params = [RandomResizedCrop.get_params(images[0], [smallest, 1], [3 / 4, 4 / 3]) for _ in range(400)]
    _, _, heights, widths = (torch.tensor(numbers) / 64 for numbers in zip(*params, strict=True))
    width, height = seen(images)
    points = torch.linspace(0, 1, 11)
    for ours, theirs in ((width * height, widths * heights), (width / height, widths / heights)):
        torch.testing.assert_close(ours.quantile(points), theirs.quantile(points), atol=0.1, rtol=0)
    mirrored = (images[:, 0, 32, -9].int() < images[:, 0, 32, 8].int()).float().mean()
    assert mirrored == pytest.approx(0.5 if kind == "crop_flip" else 0, abs=0.1)


def test_a_crop_lies_anywhere_in_the_picture() -> None:
    images = shown(positions(400), "crop_flip").float()
    left, top = images[:, 0].amin(dim=(1, 2)), images[:, 1].amin(dim=(1, 2))
    right, bottom = images[:, 0].amax(dim=(1, 2)), images[:, 1].amax(dim=(1, 2))
    for low, high in ((left, right), (top, bottom)):
        assert low.min() <= 4
        assert high.max() >= 248
        assert (low + high).mean() == pytest.approx(252, abs=12)


@pytest.mark.parametrize("kind", ["flip", "crop", "crop_flip"])
def test_the_batch_does_not_matter_but_the_key_does(kind: Augmentation) -> None:
    pixels = NOISE.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    images = ArrayImages(pixels, np.zeros(6, np.int64), "noise")
    draw = Draw(KEY, view=RandomView(kind, 16))
    whole = images.read(range(6), prepare, draw).images
    assert torch.equal(images.read([4, 0, 5, 2], prepare, draw).images, whole[[4, 0, 5, 2]])
    assert torch.equal(images.subset([4, 5]).read([1], prepare, draw.shifted(4)).images, whole[[5]])
    assert not torch.equal(images.read(range(6), prepare, replace(draw, key=(0, 1, 2, 4))).images, whole)


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


def test_a_feature_pass_may_see_what_training_sees(tiny: Callable[[], OpenClip], engine: Engine) -> None:
    """By one draw per session; otherwise it sees pictures as evaluation does."""
    pixels = NOISE.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    images, method = ArrayImages(pixels, np.arange(5), "noise"), Method(tiny())
    view = RandomView("crop", 32)

    def features(session: int, as_trained: bool) -> Tensor:
        extract = engine.extractor(method, session, view)
        return extract(images, lambda shown: shown.flatten(1), as_trained=as_trained)[0].view(5, 3, 32, 32)

    resize = method.backbone.resize
    assert torch.equal(features(1, False), method.backbone.normalize(images.read(range(5), resize).images))
    seen_by_training = images.read(range(5), resize, Draw((0, 1, 0), view=view)).images
    assert torch.equal(features(1, True), method.backbone.normalize(seen_by_training))
    assert not torch.equal(features(2, True), features(1, True))
