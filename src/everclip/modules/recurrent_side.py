"""A side network that reads a frozen CLIP from its last block backwards, and remembers what it has read.

B clips, T frames, P tokens of a frame, L tokens of a text, K blocks, W width of a tower, D width of the network.

Source: arXiv 2404.00801 (yeliudev/R2-Tuning @ 03fbcf6, models/adapter.py and models/blocks.py; nncore 0.4.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from everclip.backbones.base import Tower


class RecurrentSide(nn.Module):
    """What frames show of a text, in their order; all weights but a gate and a scale are shared by the blocks.

    From block to block, patches are pooled by the words of the text and added to the class token, times the tanh of a
    scale that begins at zero. A gate mixes in what was read before; then frames read the text and each other.

    Args:
        vision: the image tower.
        text: the text tower.
        width: D.
        num_layers: K.
        heads: of attention.
        dropout: in front of the maps from the towers' widths.
        drop_path: probability that a layer of the reader is left out for a clip.
    """

    def __init__(
        self, vision: Tower, text: Tower, *, width: int, num_layers: int, heads: int, dropout: float, drop_path: float
    ) -> None:
        super().__init__()
        self.frame_map, self.word_map = _map(vision.width + 2, width, dropout), _map(text.width, width, dropout)
        self.key, self.query = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.scale, self.gate = nn.Parameter(torch.zeros(num_layers)), nn.Parameter(torch.zeros(num_layers - 1))
        self.reader = Reader(width, heads, drop_path)
        self.pool = nn.Linear(width, 1, bias=False)

    def read_frames(self, tokens: Tensor) -> Tensor:
        """(B, T, P, D) of the tokens (B, T, P, W) of frames after a block, each with its share of the clip's time."""
        starts = torch.arange(tokens.shape[1], device=tokens.device, dtype=tokens.dtype) / tokens.shape[1]
        times = torch.stack([starts, starts + 1 / tokens.shape[1]], dim=1)[:, None]
        mapped: Tensor = self.frame_map(torch.cat([tokens, times.expand(*tokens.shape[:-1], 2)], dim=-1))
        return mapped

    def read_words(self, tokens: Tensor) -> Tensor:
        """(B, L, D) of the tokens (B, L, W) of texts after a block."""
        mapped: Tensor = self.word_map(tokens)
        return mapped

    def forward(self, frames: Sequence[Tensor], words: Sequence[Tensor], known: Tensor) -> Tensor:
        """(B, T, D), none below zero: the code rectifies it in place where a pyramid begins.

        Args:
            frames: of each block, the first one first, see `read_frames`.
            words: of each block, see `read_words`.
            known: (B, L), which tokens are of the text.
        """
        before: Tensor | None = None
        for layer in range(len(frames) - 1, -1, -1):
            seen = frames[layer][:, :, 0] + self.scale[layer].tanh() * self._pooled(frames[layer], words[layer], known)
            if before is not None:
                gate = self.gate[layer].sigmoid()
                seen = gate * seen + (1 - gate) * before
            before = self.reader(seen, words[layer], known)
        assert before is not None
        return before.relu()

    def _pooled(self, frames: Tensor, words: Tensor, known: Tensor) -> Tensor:
        """(B, T, D): what the words find among the tokens of each frame, at most."""
        scores = self.query(words)[:, None] @ self.key(frames).mT / frames.shape[-1] ** 0.5
        found = scores.softmax(dim=-1) @ frames + words[:, None]
        return found.masked_fill(~known[:, None, :, None], -torch.inf).amax(dim=2)

    def pooled_text(self, words: Tensor, known: Tensor) -> Tensor:
        """(B, D) of words (B, L, D)."""
        shares = self.pool(words).masked_fill(~known[..., None], -torch.inf).softmax(dim=1)
        return (shares * words).sum(dim=1)


class Reader(nn.Module):
    """Frames that read a text, then each other; with norms behind the layers."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.words, self.frames = (nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2))
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(wide, nn.ReLU(), narrow)
        self.norm_words, self.norm_frames, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.drop = StochasticDepth(drop_path, "row")
        for attention in (self.words, self.frames):
            for weight in (*attention.in_proj_weight.chunk(3), attention.out_proj.weight):
                nn.init.xavier_uniform_(weight)
        for layer in (wide, narrow):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, words: Tensor, known: Tensor) -> Tensor:
        """(B, T, D) of frames (B, T, D) and words (B, L, D), of which some are `known` (B, L)."""
        places = _places(x)
        read = self.words(x + places, words, words, key_padding_mask=~known, need_weights=False)[0]
        x = self.norm_words(x + self.drop(read))
        placed = x + places
        x = self.norm_frames(x + self.drop(self.frames(placed, placed, x, need_weights=False)[0]))
        x = self.norm_mlp(x + self.drop(self.mlp(x)))
        return x


def _map(in_width: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(in_width),
        nn.Dropout(dropout),
        nn.Linear(in_width, width),
        nn.ReLU(),
        nn.LayerNorm(width),
        nn.Dropout(dropout),
        nn.Linear(width, width),
    )


def _places(x: Tensor) -> Tensor:
    """Sines and cosines (T, D) of the places of frames (B, T, D), the last of which is a full turn."""
    length, width = x.shape[1:]
    turns = torch.arange(1, length + 1, device=x.device, dtype=x.dtype) / (length + 1e-6) * 2 * math.pi
    rates = 10000 ** (torch.arange(0, width, 2, device=x.device, dtype=x.dtype) / width)
    angles = turns[:, None] / rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
