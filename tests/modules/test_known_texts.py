"""Texts of a frozen tower pass it once, by chunks that are always the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from everclip.modules import known_texts
from everclip.modules.known_texts import CHUNK, KnownTexts


class Encoder:
    """Texts are numbers, and their features these numbers."""

    def __init__(self) -> None:
        self.passed: list[int] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.passed.append(len(texts))
        return torch.tensor([[float(text)] for text in texts])


WEIGHT = torch.ones(())
TEXTS = [str(number) for number in range(4 * CHUNK)]


def test_only_new_texts_pass() -> None:
    known = KnownTexts()
    for count, new in ((CHUNK + 3, [CHUNK, 3]), (CHUNK + 3, []), (2 * CHUNK, [CHUNK]), (2 * CHUNK + 5, [5])):
        encode = Encoder()
        assert known.features(TEXTS[:count], encode, WEIGHT)[:, 0].tolist() == list(range(count))
        assert encode.passed == new
    encode = Encoder()
    known.features(TEXTS[1 : CHUNK + 1], encode, WEIGHT)  # other company may be rounded otherwise
    with torch.autocast("cpu"):
        known.features(TEXTS[:CHUNK], encode, WEIGHT)
    known.features(TEXTS[:CHUNK], encode, WEIGHT.double())
    assert encode.passed == [CHUNK] * 3


def test_of_many_texts_the_first_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_texts, "KEPT", 2 * CHUNK)
    known = KnownTexts()
    assert len(known.features(TEXTS, Encoder(), WEIGHT)) == len(TEXTS)
    for part, new in ((slice(2 * CHUNK, None), []), (slice(CHUNK), [CHUNK])):
        encode = Encoder()
        known.features(TEXTS[part], encode, WEIGHT)
        assert encode.passed == new
