"""Learned context: it begins as words, leaves the class name alone, and has as many values as published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.methods.cocoop import Cocoop
from everclip.methods.coop import Coop
from everclip.methods.ivlp import Ivlp
from everclip.methods.kgcoop import Kgcoop
from everclip.methods.maple import Maple
from everclip.methods.pre import Pre
from everclip.methods.promptsrc import Promptsrc
from everclip.methods.vpt import Vpt
from everclip.modules.prompts import Context
from everclip.training.engine import Engine
from everclip.training.phases import Budget, Training
from everclip.training.schedules import Schedule
from everclip.types import Batch, ClassSet, Session
from tests.methods.test_cpe_clip import EVERY, NAMES, Tiny, no_extract
from tests.methods.test_cpe_clip_official import TensorImages
from tests.unwatched import Unwatched


def test_parameter_counts_on_vit_b16_are_the_published_ones() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    published: list[tuple[Callable[..., Any], dict[str, Any], int]] = [
        (Coop, {}, 8_192),
        (Coop, {"length": 4, "words": "a photo of a"}, 2_048),
        (Cocoop, {}, 35_360),
        (Kgcoop, {}, 2_048),
        (Vpt, {}, 73_728),
        (Vpt, {"depth": 1}, 6_144),
        (Ivlp, {}, 30_720),
        (Ivlp, {"text_length": 4, "vision_length": 0}, 24_576),  # deep language prompting
        (Maple, {}, 3_555_072),
        (Promptsrc, {}, 46_080),
        (Pre, {}, 1_579_008),
    ]
    for make, options, count in published:
        assert make(backbone, **options).num_trainable() == count, (make, options)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_context_of_words_begins_as_these_words(tiny: Tiny, length: int) -> None:
    backbone = tiny()
    context = Context(backbone, length=length, words="a photo of a")
    assert context.template == {1: "photo of a {}.", 2: "of a {}.", 4: "{}."}[length]
    with torch.no_grad():
        features = context.encode(backbone, EVERY.prompts(context.template))
        expected = backbone.encode_text(backbone.tokenize(EVERY.prompts("a photo of a {}.")))
    torch.testing.assert_close(features, expected)


def test_the_class_name_survives_a_context_as_long_as_the_room_there_is(tiny: Tiny) -> None:
    backbone = tiny()
    longest = 77 - backbone.tokenize([f"{name}." for name in NAMES]).shape[1]
    with torch.no_grad():
        features = Context(backbone, length=longest).encode(backbone, [f"{name}." for name in NAMES])
        assert torch.pdist(features).min() > 1e-3
        with pytest.raises(ConfigError, match=r"78 tokens with prompts, .* has room for 77; shorten"):
            Context(backbone, length=longest + 1).encode(backbone, [f"{name}." for name in NAMES])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 5, "words": "a photo of a"}, r"5 learned tokens cannot begin as 4 words='a photo of a'"),
        ({"length": 2, "words": "an okapiphoto"}, r"words='an okapiphoto' are \d tokens; choose words"),
        ({"length": 2, "depth": 5}, "prompts for 5 blocks, but the text tower has 4"),
    ],
)
def test_a_context_that_cannot_be_is_refused(tiny: Tiny, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Context(tiny(), **options)


def test_one_shot_in_batches_of_four_shows_every_picture_in_every_epoch(tiny: Tiny, engine: Engine) -> None:
    classes = ClassSet(tuple(range(6)), (*NAMES, "plain green star"))
    images = TensorImages(torch.randint(0, 255, (6, 3, 32, 32), dtype=torch.uint8), np.arange(6))
    session = Session(0, "base", classes, classes, images)
    method, seen = Coop(tiny(), length=2), []
    method.begin_session(session, no_extract)

    def watched(batch: Batch) -> dict[str, torch.Tensor]:
        seen.extend(batch.labels.tolist())
        return Coop.loss(method, batch)

    method.loss = watched  # type: ignore[method-assign]  # recorded, on this instance
    budget = Budget(epochs=3, batch_size=4)
    training = Training(budget, budget, lambda groups: torch.optim.SGD(groups, lr=0.1), Schedule())
    engine.fit(method, session, method.phases(session)[0], 0, training, Unwatched())
    assert [sorted(seen[start : start + 6]) for start in (0, 6, 12)] == [list(range(6))] * 3
