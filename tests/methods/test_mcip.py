"""Both margin losses against their formulas; which tower each phase moves; where captions come from.

There is no official code of the training to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.data.pairs import CaptionedImages
from everclip.losses.angular import arc_margin, multi_caption_margin
from everclip.methods.base import prepared
from everclip.methods.mcip import Mcip
from everclip.training.engine import Engine
from everclip.types import NO_CLASSES, Batch, ClassSet, Phase, Samples, Session

CLASSES = ClassSet((4, 7), ("red star", "blue ring"), ("a photo of a {}.", "{}"))
LABELS = np.array([7, 4, 7])
TEXTS = (("a star", "red"), ("a ring",), ("a heart", "pink", "big"))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
PICTURES = ArrayImages(PIXELS, LABELS, "")


def drawn(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return F.normalize(values, dim=-1)


def test_arc_margin_widens_the_angle_to_the_right_class() -> None:
    features, rows, columns = drawn(4, 5, seed=0), drawn(3, 5, seed=1), torch.tensor([2, 0, 1, 0])
    expected = []
    for feature, column in zip(features, columns.tolist(), strict=True):
        angles = [math.acos(float(feature @ row)) for row in rows]
        logits = [20 * math.cos(angle + 0.4 * (c == column)) for c, angle in enumerate(angles)]
        expected.append(math.log(sum(map(math.exp, logits))) - logits[column])
    found = arc_margin(features, rows, columns, scale=20.0, margin=0.4)
    assert found.item() == pytest.approx(sum(expected) / 4)
    plain = F.cross_entropy(20 * features @ rows.T, columns)
    torch.testing.assert_close(arc_margin(features, rows, columns, scale=20.0, margin=0.0), plain)


def test_each_caption_competes_with_those_of_other_pictures_alone() -> None:
    features, captions = drawn(3, 5, seed=2), drawn(3, 2, 5, seed=3)
    expected = []
    for i in range(3):
        others = [math.exp(9 * float(features[i] @ captions[j, k])) for j in range(3) if j != i for k in range(2)]
        for k in range(2):
            own = math.exp(9 * math.cos(math.acos(float(features[i] @ captions[i, k])) + 0.2))
            expected.append(-math.log(own / (own + sum(others))))
    found = multi_caption_margin(features, captions, torch.arange(3), scale=9.0, margin=0.2)
    assert found.item() == pytest.approx(sum(expected) / 6)
    alone = multi_caption_margin(features, captions[:, :1], torch.arange(3), scale=9.0, margin=0.0)
    torch.testing.assert_close(alone, F.cross_entropy(9 * features @ captions[:, 0].T, torch.arange(3)))


def test_a_picture_alone_and_one_on_its_caption_have_finite_gradients() -> None:
    features = drawn(1, 5, seed=4).requires_grad_(True)
    loss = multi_caption_margin(
        features, features.detach()[:, None], torch.zeros(1, dtype=torch.long), scale=30.0, margin=0.3
    )
    loss = loss + arc_margin(features, features.detach(), torch.zeros(1, dtype=torch.long), scale=30.0, margin=0.3)
    loss.backward()
    assert features.grad is not None
    assert (loss.item(), features.grad.isfinite().all().item()) == (0, True)


def extract(
    samples: Samples, encode: Callable[[Tensor], Tensor], *, as_trained: bool = False, number: int = 0
) -> tuple[Tensor, Tensor]:
    raise AssertionError("pictures that come once are seen when they come")


def begun(
    method: Mcip, samples: Samples, classes: ClassSet, repeats: float = 1.0, extract: Any = extract
) -> tuple[list[Phase], Batch]:
    session = Session(0, "base", classes, classes, samples, repeats=repeats)
    method.begin_session(session, extract)
    batch = samples.read(range(3), method.backbone.resize).with_images(method.backbone.normalize)
    return [prepared(phase, extract) for phase in method.phases(session)], batch


def test_phases_move_one_tower_each(tiny: Callable[[], OpenClip]) -> None:
    method = Mcip(tiny())
    (images, texts), batch = begun(method, PICTURES, CLASSES)
    names = {id(weight): name for name, weight in method.named_parameters()}
    moved = []
    for phase in (images, texts):
        assert phase.loss
        method.zero_grad(set_to_none=True)
        sum(phase.loss(batch).values()).backward()
        moved.append({names[id(w)] for w in method.parameters() if w.grad is not None})
        given = phase.parameters or ()
        weights = [w for group in given for w in (group.parameters if hasattr(group, "parameters") else (group,))]
        assert {names[id(weight)] for weight in weights} == moved[-1]
    assert moved[0] | moved[1] == set(names.values())
    assert all(name.startswith("rows.") or ".visual." in name for name in moved[0])
    assert not any(name.startswith("rows.") or ".visual." in name for name in moved[1])
    method.realign_epochs = 0
    assert [phase.name for phase in begun(method, PICTURES, CLASSES)[0]] == ["images"]


def test_captions_are_texts_of_the_picture_or_prompts_of_its_class(tiny: Callable[[], OpenClip]) -> None:
    method = Mcip(tiny(), captions=2)
    (images, *_), batch = begun(method, PICTURES, CLASSES)
    assert images.loss
    terms = images.loss(batch)
    features = method.encode_image(batch.images)
    prompts = method.encode_text(["a photo of a red star.", "red star", "a photo of a blue ring.", "blue ring"])
    settings = {"scale": 30.0, "margin": 0.3}
    expected = multi_caption_margin(features, prompts.view(2, 2, -1), torch.tensor([1, 0, 1]), **settings)
    torch.testing.assert_close(terms["captions"], expected)
    rows = method.class_features(CLASSES)
    torch.testing.assert_close(terms["classes"], arc_margin(features, rows, torch.tensor([1, 0, 1]), **settings))

    (images, *_), batch = begun(method, CaptionedImages(PICTURES, TEXTS), NO_CLASSES)
    assert images.loss
    own = method.encode_text(["a star", "red", "a ring", "a ring", "a heart", "pink"])
    expected = multi_caption_margin(features, own.view(3, 2, -1), torch.arange(3), **settings)
    torch.testing.assert_close(images.loss(batch), {"captions": expected})


def test_captions_that_come_again_are_read_once_before_training(tiny: Callable[[], OpenClip], engine: Engine) -> None:
    pairs, found, read = CaptionedImages(PICTURES, TEXTS), [], list[int]()
    for repeats in (1.0, 2.0):
        method = Mcip(tiny(), captions=2)
        method.backbone.model.ln_final.register_forward_hook(lambda module, inputs, output: read.append(len(output)))
        (images, _), batch = begun(method, pairs, NO_CLASSES, repeats, engine.extractor(method))
        before = len(read)
        assert images.loss
        found.append([images.loss(batch.first(2))["captions"], images.loss(batch)["captions"]])
        assert read[before:] == ([4, 6] if repeats == 1 else [])
    torch.testing.assert_close(found[1], found[0])
