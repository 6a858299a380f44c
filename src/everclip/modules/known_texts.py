"""Texts that pass a frozen text tower once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHUNK = 16  # texts that pass together: numbers must not depend on how many there are
KEPT = 100_000  # texts


class KnownTexts:
    """Features of texts, kept by chunks: the same chunk always passes alone, so that its numbers are always the same.

    Sessions append their classes, so that only new chunks pass. Of more than `KEPT` texts, the first go.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], Tensor] = {}
        self._count = 0

    def features(self, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], weight: Tensor) -> Tensor:
        """Features (N, E) of texts.

        Args:
            texts: at least one.
            encode: from texts to features (N, E), always the same.
            weight: any of its weights: a model may be moved, or compute in another precision, from call to call.
        """
        place = (weight.device, weight.dtype, torch.is_autocast_enabled(weight.device.type))
        rows = []
        for start in range(0, len(texts), CHUNK):
            chunk = tuple(texts[start : start + CHUNK])
            found = self._kept.get((*place, *chunk))
            if found is None:
                found = self._kept[*place, *chunk] = encode(chunk)
                self._count += len(chunk)
            rows.append(found)
        while self._count > KEPT:
            self._count -= len(self._kept.pop(next(iter(self._kept))))
        return torch.cat(rows)
