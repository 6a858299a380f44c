"""A frozen text tower alone, to compare texts by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from everclip.backbones.base import Backbone

CHUNK = 256


class TextTower:
    """Features of texts, of length 1, of a backbone that nothing trains.

    Args:
        model: whose text tower reads them; named otherwise than the run's own backbone, which no configuration gives.
    """

    def __init__(self, *, model: Backbone) -> None:
        self._backbone = model

    def __call__(self, texts: Sequence[str], known: int) -> NDArray[np.float32]:
        """Features (N, E) of texts, whichever of them may be learnt from."""
        parts = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        with torch.inference_mode():
            found = [self._backbone.encode_text(self._backbone.tokenize(part)).float() for part in parts]
        features: NDArray[np.float32] = torch.cat(found).cpu().numpy()
        return features
