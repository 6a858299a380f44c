"""A frozen copy of a backbone, whose outputs are kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from everclip.backbones.base import Backbone

CHUNK = 256  # texts per forward pass


class Teacher:
    """A backbone as it is now.

    No `nn.Module`, so that a method may hold one without it entering the method's state, parameters or checkpoints.

    Args:
        backbone: copied, on the device where it is.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = copy.deepcopy(backbone).requires_grad_(False)

    def to(self, device: torch.device) -> Teacher:
        """Moves the copy."""
        self._backbone.to(device)
        return self

    @torch.no_grad()
    def encode_image(self, images: Tensor, *, normalize: bool = True) -> Tensor:
        """Image features (B, E) for normalised pictures (B, 3, S, S), of length 1 if `normalize`."""
        return self._backbone.encode_image(images, normalize=normalize)

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor, *, normalize: bool = True) -> Tensor:
        """Text features (N, E) for token ids (N, L), of length 1 if `normalize`."""
        chunks = tokens.to(self._backbone.device).split(CHUNK)
        return torch.cat([self._backbone.encode_text(chunk, normalize=normalize) for chunk in chunks])

    def encode_text(self, texts: Sequence[str], *, normalize: bool = True) -> Tensor:
        """Text features (N, E), of length 1 if `normalize`, in chunks as long as their longest text."""
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        return torch.cat([self.encode_tokens(self._backbone.tokenize(chunk), normalize=normalize) for chunk in chunks])
