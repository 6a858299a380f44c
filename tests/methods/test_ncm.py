from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.data.images import ArrayImages
from everclip.methods.ncm import Ncm
from everclip.types import ClassSet, Samples, Session
from tests.methods.test_cpe_clip import EVERY, Tiny

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(10) % 5


def make_extract(method: Ncm) -> Callable[..., tuple[Tensor, Tensor]]:
    def extract(images: Samples, encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        pictures = images.read(range(len(images)), method.backbone.resize).images
        with torch.no_grad():
            return encode(method.backbone.normalize(pictures)), torch.from_numpy(images.labels)

    return extract


def learn(method: Ncm, groups: list[list[int]]) -> None:
    everything = ArrayImages(PIXELS, LABELS, "random")
    for index, group in enumerate(groups):
        new = EVERY.select(group)
        session = Session(index, "s", new, new, everything.subset(everything.indices_of(new)))
        method.end_session(session, make_extract(method))


def test_a_class_with_one_picture_is_that_picture(tiny: Tiny) -> None:
    method = Ncm(tiny())
    images = ArrayImages(PIXELS[:1], np.array([3]), "one")
    new = EVERY.select([3])
    method.end_session(Session(0, "s", new, new, images), make_extract(method))
    with torch.no_grad():
        picture = method.backbone.normalize(images.read([0], method.backbone.resize).images)
        logit = method.logits(picture, new)
    torch.testing.assert_close(logit, method.backbone.logit_scale.reshape(1, 1))


def test_the_result_does_not_depend_on_the_split(tiny: Tiny) -> None:
    split, joint = Ncm(tiny()), Ncm(tiny())
    learn(split, [[0, 1, 2], [3], [4]])
    learn(joint, [[0, 1, 2, 3, 4]])
    torch.testing.assert_close(split.means.of(EVERY), joint.means.of(EVERY), rtol=1e-6, atol=1e-6)


def test_a_class_that_returns_has_the_mean_over_all_its_pictures(tiny: Tiny) -> None:
    apart, joint = Ncm(tiny()), Ncm(tiny())
    learn(joint, [[0, 1, 2, 3, 4]])
    images, nothing = ArrayImages(PIXELS, LABELS, "random"), EVERY.select([])
    first = images.subset([0, 1, 2, 3, 4, 5])  # class 0 has two pictures here; the others, one and one later
    apart.end_session(Session(0, "s", EVERY, EVERY, first), make_extract(apart))
    again = EVERY.select([3, 1, 4, 2])
    later = Session(1, "s", nothing, EVERY, images.subset([6, 7, 8, 9]), returning=again)
    apart.end_session(later, make_extract(apart))
    with torch.no_grad():
        shown = joint.backbone.normalize(images.read(range(10), joint.backbone.resize).images)
        torch.testing.assert_close(apart.logits(shown, EVERY), joint.logits(shown, EVERY))


def test_a_mean_is_the_normalised_mean_of_normalised_features(tiny: Tiny) -> None:
    method = Ncm(tiny())
    learn(method, [[0, 1, 2, 3, 4]])
    with torch.no_grad():
        pictures = ArrayImages(PIXELS, LABELS, "random").read([2, 7], method.backbone.resize).images
        features = method.backbone.encode_image(method.backbone.normalize(pictures))
    expected = features.sum(0) / features.sum(0).norm()
    torch.testing.assert_close(method.means.of(EVERY.select([2]))[0], expected)


def test_an_unknown_class_is_named(tiny: Tiny) -> None:
    method = Ncm(tiny())
    learn(method, [[0, 1]])
    with pytest.raises(ValueError, match="no row for the classes dotted green ring"):
        method.logits(torch.zeros(1, 3, 32, 32), ClassSet(EVERY.ids[:3], EVERY.names[:3]))
