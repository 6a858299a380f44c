from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everclip.errors import ConfigError
from everclip.losses.distillation import distillation
from everclip.methods.lwf import Lwf
from everclip.methods.vr_lwf import VrLwf, random_sentences
from tests.methods.test_cpe_clip import Tiny, make_batch, make_session, no_extract
from tests.methods.test_finetune import all_but_the_scale, assert_same_weights, train
from tests.methods.test_lwf import move, strongest_pull, with_auxiliary


def test_sentences_are_random_tokens_between_start_and_end(tiny: Tiny) -> None:
    torch.manual_seed(0)
    sentences = random_sentences(tiny(), 1000, 10)
    assert sentences.shape == (1000, 12)
    assert set(sentences[:, 0].tolist()) == {49406}
    assert set(sentences[:, 11].tolist()) == {49407}
    inside = sentences[:, 1:11]
    assert 0 <= int(inside.min()) < 100 < 49300 < int(inside.max()) < 49406
    torch.manual_seed(0)
    assert torch.equal(sentences, random_sentences(tiny(), 1000, 10))


def test_padding_changes_no_feature(tiny: Tiny) -> None:
    backbone = tiny()
    sentences = random_sentences(backbone, 5, 10)
    padded = torch.cat([sentences, torch.zeros(5, 65, dtype=torch.long)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode_text(sentences), backbone.encode_text(padded))


def test_every_session_draws_anew(tiny: Tiny) -> None:
    method = VrLwf(tiny(), num_sentences=7)
    method.begin_session(make_session(0), no_extract)
    first = method.texts
    method.begin_session(make_session(1), no_extract)
    assert first.shape == (7, method.backbone.embed_dim)
    assert not torch.allclose(first, method.texts)


def test_the_loss_compares_similarities_to_the_sentences(tiny: Tiny) -> None:
    method, other = VrLwf(tiny(), num_sentences=9, text_weight=2.0), tiny()
    method.begin_session(make_session(0), no_extract)
    with torch.no_grad():
        method.backbone.get_parameter("model.visual.proj").mul_(1 + torch.linspace(0, 0.1, 96))
        batch = replace(make_batch([0, 1]), auxiliary=make_batch([0] * 4, seed=1))
        shown = batch.auxiliary.images  # type: ignore[union-attr]  # given above
        student, teacher = (
            other.logit_scale * encode(shown) @ method.texts.T for encode in (method.encode_image, other.encode_image)
        )
        losses = method.loss(batch)
    torch.testing.assert_close(losses["image_distillation"], distillation(student, teacher))
    torch.testing.assert_close(losses["text_distillation"], 2 * distillation(student.T, teacher.T))


def test_it_pulls_nowhere_while_the_student_is_the_teacher(tiny: Tiny) -> None:
    method = VrLwf(tiny(), num_sentences=9)
    move(method)
    method.begin_session(make_session(1), no_extract)
    assert strongest_pull(method, [3, 4]) < 1e-3


def test_with_class_texts_it_is_learning_without_forgetting(tiny: Tiny) -> None:
    method, other = VrLwf(tiny(), image_weight=2, text_weight=3), Lwf(tiny(), image_weight=2, text_weight=3)
    for one in (method, other):
        one.begin_session(make_session(1), no_extract)
        move(one)
    method.texts = other.texts
    batch = with_auxiliary([3, 4])
    torch.testing.assert_close(method.loss(batch), other.loss(batch))


def test_without_weight_it_is_fine_tuning(tiny: Tiny) -> None:
    method = VrLwf(tiny(), image_weight=0, text_weight=0, num_sentences=9)
    plain = all_but_the_scale(tiny, label_smoothing=0.2)
    for one in (method, plain):
        train(one, 1, beside=make_batch([0, 0], seed=9))
    assert_same_weights(method, plain)


def test_another_tokenizer_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    monkeypatch.setattr(backbone, "tokenize", lambda texts: torch.tensor([[5, 1, 0, 0]]))
    with pytest.raises(ConfigError, match="vocabulary of CLIP's tokenizer"):
        VrLwf(backbone)
