from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everclip.losses.distillation import distillation
from everclip.methods.base import Method
from everclip.methods.lwf import Lwf
from everclip.types import Batch
from tests.methods.pairs import pair_batch, pair_session
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract
from tests.methods.test_finetune import all_but_the_scale, assert_same_weights, train


def with_auxiliary(labels: list[int]) -> Batch:
    return replace(make_batch(labels), auxiliary=make_batch([0] * 4, seed=1))


def move(method: Method) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in method.parameters() if p.requires_grad):
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


def strongest_pull(method: Method, labels: list[int]) -> float:
    """Largest gradient of the distillation."""
    losses = method.loss(with_auxiliary(labels))
    (losses["image_distillation"] + losses["text_distillation"]).backward()
    gradients = [p.grad.abs().max() for p in method.parameters() if p.grad is not None]
    return float(torch.stack(gradients).max())


def test_every_weight_but_the_temperature_is_trained(tiny: Tiny) -> None:
    method = Lwf(tiny())
    assert [n for n, p in method.named_parameters() if not p.requires_grad] == ["backbone.model.logit_scale"]


def test_the_teacher_is_the_model_at_the_start_of_the_session(tiny: Tiny) -> None:
    method, batch = Lwf(tiny()), with_auxiliary([3, 4])
    move(method)
    method.begin_session(make_session(1), no_extract)
    shown = batch.auxiliary
    assert shown is not None
    with torch.no_grad():
        expected = method.logits(shown.images, EVERY.select([3, 4]))
        texts = method.encode_text(EVERY.select([3, 4]).prompts("a photo of a {}."))
    move(method)
    with torch.no_grad():
        student = method.backbone.logit_scale * method.encode_image(shown.images) @ texts.T
        losses = method.loss(batch)
    torch.testing.assert_close(losses["image_distillation"], distillation(student, expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["text_distillation"], distillation(student.T, expected.T), rtol=1e-4, atol=1e-4)


def test_it_pulls_nowhere_while_the_student_is_the_teacher(tiny: Tiny) -> None:
    method = Lwf(tiny())
    method.begin_session(make_session(0), no_extract)
    assert strongest_pull(method, [0, 1]) < 1e-3


def test_without_weight_it_is_fine_tuning(tiny: Tiny) -> None:
    method, plain = Lwf(tiny(), image_weight=0, text_weight=0), all_but_the_scale(tiny, label_smoothing=0.2)
    for one in (method, plain):
        train(one, 1, beside=make_batch([0, 0], seed=9))
    assert_same_weights(method, plain)


@pytest.mark.parametrize(("label_space", "texts"), [("current", 2), ("seen", 5)])
def test_the_teacher_reads_one_text_per_class(tiny: Tiny, label_space: str, texts: int) -> None:
    session = make_session(1)
    many = replace(session, **{k: replace(getattr(session, k), templates=("a {}.", "{}")) for k in ("new", "seen")})
    method = Lwf(tiny(), label_space=label_space)  # type: ignore[arg-type]  # a Literal
    method.begin_session(many, no_extract)
    assert len(method.texts) == texts
    with torch.no_grad():
        expected = method.encode_text([f"a {name}." for name in method.classes.names])
    torch.testing.assert_close(method.texts, expected)


def test_a_session_may_have_a_learning_rate_of_its_own(tiny: Tiny) -> None:
    method = Lwf(tiny(), session_lr={"s1": 5e-5})
    assert [method.phases(make_session(index))[0].lr for index in (0, 1)] == [None, 5e-5]


def test_the_teacher_is_in_no_checkpoint(tiny: Tiny) -> None:
    method = Lwf(tiny())
    before = set(method.state_dict())
    method.begin_session(make_session(0), no_extract)
    assert set(method.state_dict()) == before


def test_pairs_are_compared_with_captions_as_each_model_reads_them(tiny: Tiny) -> None:
    method, shown = Lwf(tiny(), label_smoothing=0.0), pair_batch(("a red star", "a bee", "two boats"), seed=1)
    method.begin_session(pair_session(), no_extract)
    images, texts = shown.images, shown.texts
    assert texts is not None

    def logits() -> Tensor:
        return method.backbone.logit_scale * method.encode_image(images) @ method.encode_text(texts).T

    with torch.no_grad():
        teacher = logits()
        move(method)
        student = logits()
        losses = method.loss(replace(pair_batch(("a dog", "a cat")), auxiliary=shown))
    assert list(losses) == ["contrastive", "image_distillation", "text_distillation"]
    torch.testing.assert_close(losses["image_distillation"], distillation(student, teacher), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["text_distillation"], distillation(student.T, teacher.T), rtol=1e-4, atol=1e-4)
