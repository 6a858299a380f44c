from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.types import Batch, ClassSet, Samples


class Table:
    """A model whose features are rows of tables: a picture is the number in its first value, a text is a number."""

    def __init__(self, pictures: Tensor, texts: Tensor) -> None:
        self.pictures, self.texts = F.normalize(pictures, dim=-1), F.normalize(texts, dim=-1)
        self.backbone: Any = SimpleNamespace(logit_scale=torch.tensor(10.0), resize=None)

    def encode_image(self, images: Tensor) -> Tensor:
        return self.pictures[images.flatten(1)[:, 0].long()]

    def encode_patches(self, images: Tensor) -> Tensor:
        return self.pictures[images[:, 0].long()]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return self.texts[[int(text) for text in texts]]

    def class_features(self, classes: ClassSet) -> Tensor:
        return self.encode_text(classes.names)

    def classifier(self, classes: ClassSet) -> Callable[[Tensor], Tensor]:
        return lambda images: self.encode_image(images) @ self.class_features(classes).T


class Chunks:
    """Passes in batches of `size`, over pictures that need no preparation."""

    def __init__(self, size: int) -> None:
        self.size = size

    def samples(self, samples: Samples, function: Callable[[Batch], Tensor], *, by_features: bool = False) -> Tensor:
        parts = [range(i, min(i + self.size, len(samples))) for i in range(0, len(samples), self.size)]
        return torch.cat([function(samples.read(part, lambda image: torch.empty(0))) for part in parts])

    def texts(self, texts: Sequence[str], function: Callable[[Sequence[str]], Tensor]) -> Tensor:
        return torch.cat([function(texts[i : i + self.size]) for i in range(0, len(texts), self.size)])
