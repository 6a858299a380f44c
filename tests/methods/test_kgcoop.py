from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everclip.methods.kgcoop import Kgcoop
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def test_two_steps_follow_the_official_code(tmp_path: Path) -> None:
    method = Kgcoop(official.make_backbone(tmp_path))
    official.check_steps(method, {"tokens": method.context.tokens[0]}, "kgcoop")


def test_knowledge_is_what_the_frozen_tower_makes_of_the_sequences_templates(tiny: Tiny) -> None:
    method, session = Kgcoop(tiny(), knowledge_weight=3.0), make_session(0)
    templates = ("a photo of a {}, a type of star.",)
    session = replace(session, new=replace(session.new, templates=templates))
    method.begin_session(session, no_extract)
    texts = [templates[0].format(name) for name in EVERY.names[:3]]
    with torch.no_grad():
        frozen = method.backbone.encode_text(method.backbone.tokenize(texts))
        cosines = (method.class_features(EVERY)[:3] * frozen).sum(dim=1)
        losses = method.loss(make_batch([0, 1, 2]))
    assert 1 - float(losses["knowledge"]) / 3.0 == pytest.approx(float(cosines.mean()))  # rounded as cosines are
