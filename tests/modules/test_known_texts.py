"""Texts of a frozen tower pass it once, by chunks that are always the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everclip.modules.known_texts import CHUNK, KnownTexts


def test_only_new_texts_pass() -> None:
    passed: list[int] = []

    def encode(texts: Sequence[str]) -> Tensor:
        passed.append(len(texts))
        return torch.tensor([[float(text)] for text in texts])

    known, texts = KnownTexts(), [str(number) for number in range(3 * CHUNK + 5)]
    for count, new in ((CHUNK + 3, [CHUNK, 3]), (2 * CHUNK, [CHUNK]), (3 * CHUNK + 5, [CHUNK, 5]), (CHUNK, [])):
        passed.clear()
        assert known.features(texts[:count], encode, "cpu")[:, 0].tolist() == list(range(count))
        assert passed == new
    passed.clear()
    known.features(texts[1 : CHUNK + 1], encode, "cpu")  # other company may be rounded otherwise
    with torch.autocast("cpu"):
        known.features(texts[:CHUNK], encode, "cpu")
    assert passed == [CHUNK, CHUNK]
