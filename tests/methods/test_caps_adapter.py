"""CapS-Adapter follows the official code's choice and logits; captions are found where they are."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from everclip.data.references import none
from everclip.methods.caps_adapter import CapsAdapter
from everclip.methods.sus_x import SusX
from everclip.types import ClassTexts
from tests.methods.given import Features, GivenFeatures
from tests.methods.test_cpe_clip import Tiny
from tests.methods.test_gda import extract, session
from tests.methods.test_sus_x import EVERY, GOLDEN, GRIDS, follows, grid, support

NO_TEXTS = ClassTexts({}, "class_texts=none")


def make(text: Tensor, **options: Any) -> CapsAdapter:
    settings = GRIDS | {"caption_share": grid(0.0, 1.2, 6), "views": 1, "class_texts": NO_TEXTS} | options
    order = ("weight", "sharpness", "caption_share", "kl_weight", "views", "class_texts")
    return CapsAdapter(GivenFeatures(text), reference=none(), **{name: settings[name] for name in order}).double()


def learnt(train: Features, captions: Tensor, method: CapsAdapter, validation: Features | None = None) -> CapsAdapter:
    with patch.object(method, "captions", return_value=captions):
        method.end_session(session(train, EVERY, validation=validation), extract)
    return method


def test_choice_and_logits_follow_the_official_code() -> None:
    text, train, judged, captions = support()
    method, expected = learnt(train, captions, make(text), judged), GOLDEN["caps_adapter"]
    sharpness, caption_share, weight, kl_weight = method.cache.chosen.tolist()
    assert [weight, sharpness, kl_weight, caption_share] == pytest.approx(expected["chosen"])
    follows(method.logits(judged.rows[::20], EVERY), expected["logits"])


def test_the_share_goes_from_sus_x_to_captions_alone() -> None:
    text, train, judged, captions = support()
    fixed = {"weight": 2.0, "sharpness": 5.0, "kl_weight": 0.0}
    none_of_them = learnt(train, captions, make(text, caption_share=0.0, **fixed))
    plain = SusX(GivenFeatures(text), reference=none(), views=1, **fixed).double()
    plain.end_session(session(train, EVERY), extract)
    torch.testing.assert_close(none_of_them.logits(judged.rows, EVERY), plain.logits(judged.rows, EVERY))
    alone = learnt(train, captions, make(text, caption_share=1.0, **fixed))
    other = Features(train.rows.flip(0), train.labels)
    anew = learnt(other, captions, make(text, caption_share=1.0, **fixed))
    torch.testing.assert_close(alone.logits(judged.rows, EVERY), anew.logits(judged.rows, EVERY))


def captions_of(tiny: Tiny, class_texts: ClassTexts, texts: tuple[tuple[str, ...], ...] = ()) -> tuple[Tensor, Any]:
    method = CapsAdapter(
        tiny(), reference=none(), class_texts=class_texts, weight=1.0, sharpness=1.0, caption_share=0.5, kl_weight=1.0
    )
    _, train, _, _ = support()
    few = train.subset([0, 1, 2, 5])
    few.texts = texts
    own = session(few, EVERY.select([0, 1]))
    labels, text = torch.tensor([0, 0, 0, 1]), method.class_features(own.classes)
    return method.captions(own, labels, text), method.encode_text


def test_captions_of_pictures_come_before_those_of_classes(tiny: Tiny) -> None:
    given = ClassTexts({"0": ("a star", "a ring"), "1": ("a heart",)}, "class_texts=file")
    found, encode = captions_of(tiny, given, (("red", "more"), ("blue",), ("red",), ("pink",)))
    names = ("0", "0", "0", "1")
    wanted = [f"a photo of a {n}. {c}" for n, c in zip(names, ("red", "blue", "red", "pink"), strict=True)]
    torch.testing.assert_close(found, encode(wanted))
    found, encode = captions_of(tiny, given)
    wanted = [f"a photo of a {n}. {c}" for n, c in zip(names, ("a star", "a ring", "a star", "a heart"), strict=True)]
    torch.testing.assert_close(found, encode(wanted))
    found, encode = captions_of(tiny, NO_TEXTS)
    torch.testing.assert_close(found, encode([f"a photo of a {n}." for n in names]))
