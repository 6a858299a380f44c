from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from everclip.methods.mod_x import ModX
from tests.methods.pairs import pair_batch, pair_session
from tests.methods.small_clip import batches, small_clip
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract

NOUNS = ("apple", "bear", "cat", "dog", "egg", "fox", "goat", "hen", "ink", "jar", "kite", "lamp")
LR, STEPS = 0.01, 3


def move(method: ModX) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def test_three_steps_of_the_official_code(tmp_path: Path, golden: Callable[[str], Any]) -> None:
    official = golden("mod_x_official")
    method = ModX(small_clip(tmp_path), alignment_weight=20.0)
    before = {name: value.clone() for name, value in method.backbone.model.state_dict().items()}
    method.begin_session(pair_session(), no_extract)
    optimizer = torch.optim.AdamW(method.parameters(), lr=LR, eps=1e-8, weight_decay=0.1)
    for step, (batch, expected) in enumerate(zip(batches(4), official["losses"], strict=True)):
        texts = tuple(f"a photo of a {NOUNS[index]}." for index in batch.indices)
        losses = method.loss(replace(batch, texts=texts))
        assert losses["contrastive"].item() == pytest.approx(expected["contrastive"], rel=1e-11)
        assert losses["alignment"].item() == pytest.approx(20 * expected["divergence"], rel=1e-9, abs=1e-13)
        optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        method.after_step()
    for name, expected in official["change"].items():
        moved = (method.backbone.model.state_dict()[name] - before[name]).flatten()
        found = moved.norm(), moved @ torch.from_numpy(np.random.RandomState(3).standard_normal(len(moved)))
        assert [float(value) for value in found] == pytest.approx(expected, rel=1e-6), name


def test_it_pulls_nowhere_while_the_student_is_the_teacher(tiny: Tiny) -> None:
    method = ModX(tiny())
    method.begin_session(pair_session(), no_extract)
    losses = method.loss(pair_batch(("a red star", "a bee", "two boats")))
    gradients = torch.autograd.grad(losses["alignment"], list(method.parameters()), allow_unused=True)
    assert losses["alignment"].item() == pytest.approx(0, abs=1e-5)
    assert max(float(g.abs().max()) for g in gradients if g is not None) < 1e-5


def test_without_weight_it_is_fine_tuning_on_pairs(tiny: Tiny) -> None:
    method, batch = ModX(tiny(), alignment_weight=0.0), pair_batch(("a red star", "a bee", "two boats"))
    session = pair_session()
    method.begin_session(session, no_extract)
    assert session.objective is not None
    torch.testing.assert_close(method.loss(batch), session.objective.loss(method, batch, session.classes, 0.0))


def test_pictures_with_labels_are_aligned_with_the_texts_of_classes(tiny: Tiny) -> None:
    method, batch = ModX(tiny(), temperature=0.1), make_batch([3, 4, 3])
    method.begin_session(make_session(1), no_extract)
    move(method)
    images, texts = batch.images, EVERY.select([3, 4]).prompts("a photo of a {}.")
    with torch.no_grad():
        losses = method.loss(batch)
        new = method.encode_image(images) @ method.encode_text(texts).T
        old = method.teacher.encode_image(images) @ method.teacher.encode_text(texts).T
    own = [0, 1, 0]
    expected = 0.0
    for row in range(3):
        if int(old[row].argmax()) == own[row]:
            expected += float(F.kl_div((new[row] / 0.1).log_softmax(0), (old[row] / 0.1).softmax(0), reduction="sum"))
    for column in range(2):
        if own[int(old[:, column].argmax())] == column:
            pair = (new[:, column] / 0.1).log_softmax(0), (old[:, column] / 0.1).softmax(0)
            expected += float(F.kl_div(*pair, reduction="sum"))
    assert float(losses["alignment"]) == pytest.approx(20 * expected / 2, rel=1e-3)


def test_the_logit_scale_is_trained_within_limits(tiny: Tiny) -> None:
    method = ModX(tiny(), max_logit_scale=50.0)
    (scale,) = method.scales
    assert scale.requires_grad
    for value, kept in ((math.log(60), 50.0), (-0.5, 1.0)):
        with torch.no_grad():
            scale.fill_(value)
        method.after_step()
        assert method.backbone.logit_scale.item() == pytest.approx(kept)
