"""Texts that pass a frozen text tower once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHUNK = 32  # texts that pass together; what is kept must not depend on how many there are


class KnownTexts:
    """Features of texts, kept by chunks: the same chunk always passes alone, so that its numbers are always the same.

    Sessions append their classes: chunks of earlier ones come again whole, and only the last one, if it is not full,
    passes anew.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str | bool, ...], Tensor] = {}

    def features(self, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], device: str) -> Tensor:
        """Features (N, E) of texts.

        Args:
            texts: at least one.
            encode: from texts to features (N, E), always the same.
            device: kind of device it runs on, whose precision may differ from call to call.
        """
        mixed = torch.is_autocast_enabled(device)
        rows = []
        for start in range(0, len(texts), CHUNK):
            chunk = tuple(texts[start : start + CHUNK])
            found = self._kept.get((mixed, *chunk))
            if found is None:
                found = encode(chunk)
                if len(chunk) == CHUNK:
                    self._kept[mixed, *chunk] = found
            rows.append(found)
        return torch.cat(rows)
