from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.data.references import none
from everclip.losses.distillation import distillation
from everclip.methods.base import Method
from everclip.methods.finetune import Finetune
from everclip.methods.lwf import Lwf
from everclip.methods.zscl import Zscl
from everclip.training.engine import Engine
from everclip.types import Batch, Reference
from tests.methods.test_cpe_clip import Tiny, make_batch, make_session, no_extract

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
REFERENCE = Reference(ArrayImages(PIXELS, np.zeros(7, np.int64), "random"), ("a dog", "two people at a table", "boats"))
Make = Callable[..., Zscl]


@pytest.fixture
def make(tiny: Tiny, engine: Engine) -> Make:
    """A method that has begun its first session, or the sessions asked for."""

    def _make(sessions: int = 1, between: float = 0.0, **options: Any) -> Zscl:
        method = Zscl(tiny(), reference=REFERENCE, **options)
        for index in range(sessions):
            method.begin_session(make_session(index), engine.extractor(method))
            if index < sessions - 1:
                move(method, between)
                method.end_session(make_session(index), engine.extractor(method))
        return method

    return _make


def move(method: Method, size: float = 0.01) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in method.parameters() if p.requires_grad):
            parameter += size * torch.randn(parameter.shape, generator=generator)


def batch_of(method: Method, labels: list[int], rows: list[int]) -> Batch:
    """Pictures with reference pictures beside them."""
    shown = method.backbone.normalize(REFERENCE.images.read(rows, method.backbone.resize).images)
    return replace(make_batch(labels), auxiliary=Batch(shown, torch.zeros(len(rows)), torch.tensor(rows)))


def test_the_pretrained_model_stays_the_teacher(make: Make, tiny: Tiny) -> None:
    method, pretrained = make(sessions=2, between=0.02, average_every=None, text_weight=3.0), tiny()
    batch = batch_of(method, [3, 4], [5, 0, 2])
    shown = batch.auxiliary.images  # type: ignore[union-attr]  # given above
    with torch.no_grad():
        texts = pretrained.encode_text(pretrained.tokenize(REFERENCE.texts))
        student, teacher = (
            pretrained.logit_scale * encode(shown) @ texts.T
            for encode in (method.encode_image, pretrained.encode_image)
        )
        losses = method.loss(batch)
    assert float((student - teacher).abs().max()) > 0.1
    expected = {
        "image_distillation": distillation(student, teacher),
        "text_distillation": 3 * distillation(student.T, teacher.T),
    }
    torch.testing.assert_close({name: losses[name] for name in expected}, expected, rtol=1e-4, atol=1e-4)


def test_the_previous_model_may_be_the_teacher(make: Make) -> None:
    method = make(sessions=2, between=0.02, average_every=None, teacher="previous", max_cached_images=0)
    images = batch_of(method, [3], [1, 2]).auxiliary.images  # type: ignore[union-attr]  # given above
    with torch.no_grad():
        torch.testing.assert_close(method.teacher.encode_image(images), method.encode_image(images))
        texts = method.encode_text(REFERENCE.texts)
    torch.testing.assert_close(method.texts, texts)


@pytest.mark.parametrize("limit", [0, 6, 7])
def test_cached_pictures_change_no_number(make: Make, limit: int) -> None:
    method, reference = make(max_cached_images=limit), make(max_cached_images=0)
    shown = batch_of(method, [0], [4, 1]).auxiliary
    assert shown is not None
    looked_up = torch.equal(method.known(shown), method.known(replace(shown, images=-shown.images)))
    assert looked_up == (limit == 7)
    for one in (method, reference):
        move(one)
    batch = batch_of(method, [0, 1], [6, 3, 3])
    with torch.no_grad():
        torch.testing.assert_close(method.loss(batch), reference.loss(batch), rtol=1e-5, atol=1e-5)


def test_reference_losses_leave_the_text_tower_alone(make: Make) -> None:
    method = make(constraint_weight=0)
    move(method)
    losses = method.loss(batch_of(method, [0, 1], [0, 1, 2]))
    (losses["image_distillation"] + losses["text_distillation"]).backward()
    parameters = dict(method.backbone.named_parameters())
    assert parameters["model.visual.proj"].grad is not None
    assert parameters["model.text_projection"].grad is None


def test_at_the_start_of_a_session_nothing_pulls(make: Make) -> None:
    method = make()
    losses = method.loss(batch_of(method, [0, 1], [0, 1, 2]))
    assert losses["weight_constraint"].item() == 0
    (losses["image_distillation"] + losses["text_distillation"] + losses["weight_constraint"]).backward()
    gradients = [p.grad.abs().max() for p in method.tuned if p.grad is not None]
    assert float(torch.stack(gradients).max()) < 1e-3


def test_the_constraint_is_the_squared_way_from_the_start_of_the_session(make: Make) -> None:
    method = make(sessions=2, between=0.02, constraint_weight=0.5)
    method.tuned[0].data += 2.0
    loss = method.loss(batch_of(method, [3], [0]))["weight_constraint"]
    assert float(loss.detach()) == pytest.approx(0.5 * 4 * method.tuned[0].numel(), rel=1e-4)


def test_a_session_ends_with_the_mean_of_its_way(make: Make) -> None:
    method = make(average_every=2)
    weight = method.get_parameter("backbone.model.visual.proj")
    start = weight.detach().clone()
    for _ in range(4):  # snapshots after the first and third step
        weight.data += 3.0
        method.after_step()
    method.end_session(make_session(0), no_extract)
    torch.testing.assert_close(weight.detach(), start + (0 + 3 + 9) / 3)


def test_without_weights_and_average_it_is_fine_tuning(make: Make, tiny: Tiny) -> None:
    method = make(image_weight=0, text_weight=0, constraint_weight=0, average_every=None)
    plain = Finetune(tiny(), label_smoothing=0.2)
    plain.begin_session(make_session(0), no_extract)
    batch = batch_of(method, [0, 1], [0, 1])
    for one in (method, plain):
        torch.stack(list(one.loss(batch).values())).sum().backward()
    ours, theirs = dict(method.named_parameters()), dict(plain.named_parameters())
    for name in ("backbone.model.visual.proj", "backbone.model.text_projection"):
        torch.testing.assert_close(ours[name].grad, theirs[name].grad)


def test_on_the_sessions_own_data_it_is_learning_without_forgetting(tiny: Tiny, engine: Engine) -> None:
    session = replace(make_session(1), train=REFERENCE.images)
    own = Reference(session.train, tuple(session.new.prompts("a photo of a {}.")))
    weights: Any = {"image_weight": 2, "text_weight": 3}
    method = Zscl(tiny(), reference=own, teacher="previous", constraint_weight=0, average_every=None, **weights)
    other = Lwf(tiny(), **weights)
    for one in (method, other):
        move(one)
        one.begin_session(session, engine.extractor(one))
        move(one)
    batch = batch_of(method, [3, 4], [5, 0, 2])
    torch.testing.assert_close(method.loss(batch), other.loss(batch), rtol=1e-5, atol=1e-5)


def test_reference_texts_are_encoded_once_for_all_sessions(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    original = OpenClip.encode_text

    def encode_text(self: OpenClip, tokens: Tensor, *rest: Any, **options: Any) -> Tensor:
        read.append(len(tokens))
        return original(self, tokens, *rest, **options)

    monkeypatch.setattr(OpenClip, "encode_text", encode_text)
    method = make(sessions=2)
    method.loss(batch_of(method, [3, 4], [0, 1]))
    assert read == [3, 2]  # the reference texts, the classes of the step


def test_the_reference_comes_beside_the_pictures(make: Make) -> None:
    (phase,) = make(session_lr={"s0": 5e-5}).phases(make_session(0))
    assert phase.auxiliary is REFERENCE.images
    assert phase.lr == 5e-5


def test_neither_teacher_nor_average_are_in_a_checkpoint(make: Make) -> None:
    method = make(sessions=2)
    method.end_session(make_session(1), no_extract)
    own = {name: value for name, value in method.state_dict().items() if not name.startswith("backbone.")}
    assert {name: value.numel() for name, value in own.items()} == {"average.mean": 0, "average.steps": 1}


def test_parameter_count_on_vit_b16_is_the_published_one() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert Zscl(backbone, reference=REFERENCE).num_trainable() == 149_620_736  # 149.6 M


def test_nothing_to_compare_models_on_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="reference=none has nothing to compare models on; use reference=shapes"):
        Zscl(tiny(), reference=none())
