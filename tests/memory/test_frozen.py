from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Method
from everclip.training.engine import Engine
from everclip.training.phases import Budget, Training
from everclip.training.schedules import Schedule
from everclip.types import Batch
from tests.methods.test_cpe_clip import make_session

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
IMAGES = ArrayImages(PIXELS, np.arange(9) % 3, "random")


@pytest.mark.parametrize("keep", [True, False])
def test_both_ways_give_the_features_of_the_batch(keep: bool, tiny: Callable[[], OpenClip], engine: Engine) -> None:
    backbone, calls = tiny().requires_grad_(True), []

    def encode(images: Tensor) -> Tensor:
        calls.append(len(images))
        return backbone.encode_image(images)

    features = frozen_features(encode, IMAGES, engine.extractor(Method(backbone)), keep=keep)
    rows = torch.tensor([7, 2, 2])
    batch = Batch(backbone.normalize(IMAGES.read(rows.tolist(), backbone.resize).images), rows, rows)
    for _ in range(2):
        seen = features(batch)
        assert not seen.requires_grad
        torch.testing.assert_close(seen, backbone.encode_image(batch.images).detach(), rtol=1e-5, atol=1e-5)
    assert calls == ([9] if keep else [3, 3])


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        pytest.param(Budget(5, 4), 5, id="passes"),
        pytest.param(Budget(5, 4, max_steps=6), 6 * 4 / 9, id="steps"),
        pytest.param(Budget(2, 4, max_steps=60), 2, id="more steps than there are"),
    ],
)
def test_how_often_a_picture_comes(budget: Budget, expected: float) -> None:
    session = replace(make_session(0), train=IMAGES)
    training = Training(budget, Budget(1, 1), torch.optim.SGD, Schedule())
    assert training.repeats(session) == pytest.approx(expected)
    assert training.repeats(replace(session, index=1)) == 1


@pytest.mark.parametrize(
    ("repeats", "augmented", "expected"), [(1.0, False, False), (1.5, False, True), (5.0, True, False)]
)
def test_only_pictures_that_come_again_unchanged_recur(repeats: float, augmented: bool, expected: bool) -> None:
    assert replace(make_session(0), repeats=repeats, augmented=augmented).recurs == expected
