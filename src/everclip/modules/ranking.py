"""A network that scores pictures for a text, and compares each with each.

B pictures, N pictures of a group, P patches, L text tokens, D width, H heads, M relation tokens.

Source: arXiv 2412.06760 (uynaes/RankingAwareCLIP @ 05fc5c5, libs/open_clip/src/open_clip/clip_model_adapter.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A transformer block with norms before its layers, which reads its own tokens or, if it `crosses`, others."""

    def __init__(self, width: int, heads: int, crosses: bool) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_keys = nn.LayerNorm(width) if crosses else self.norm_attention
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, others: Tensor | None = None) -> Tensor:
        keys = self.norm_keys(x if others is None else others)
        x = x + self.attention(self.norm_attention(x), keys, keys, need_weights=False)[0]
        return x + self.mlp(self.norm_mlp(x))


class Fusion(nn.Module):
    """Patches that have read a text.

    Args:
        width: D.
        heads: of attention.
        num_layers: of patches that read themselves and the text, and as many of those that read themselves alone.
        num_text_tokens: learned ones in front of the text's.
        dropout: of the later layers.
    """

    def __init__(self, width: int, heads: int, num_layers: int, num_text_tokens: int, dropout: float) -> None:
        super().__init__()
        self.text_tokens = nn.Parameter(torch.randn(num_text_tokens, width) * num_text_tokens**-0.5)
        self.own = nn.ModuleList(Block(width, heads, crosses=False) for _ in range(num_layers))
        self.cross = nn.ModuleList(Block(width, heads, crosses=True) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.later = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, width, dropout, batch_first=True) for _ in range(num_layers)
        )

    def forward(self, patches: Tensor, text: Tensor) -> Tensor:
        """(B, P, D) of patches (B, P, D) and the tokens (L, D) of one text."""
        others = torch.cat([self.text_tokens, text]).expand(len(patches), -1, -1)
        for own, cross in zip(self.own, self.cross, strict=True):
            patches = cross(own(patches), others)
        patches = self.norm(patches) @ self.projection
        for layer in self.later:
            patches = layer(patches)
        return patches


class RankAttention(nn.Module):
    """Relation tokens that read the patches of two pictures at once, by one softmax, and tell them apart.

    The softmax over both pictures is each picture's own, times the share of the two that falls to it. So attention is
    computed per picture, and of pairs there are but these shares: N (N - 1) / 2 maps over 2 P patches never exist.

    Args:
        width: D.
        heads: H.
        num_relations: M.
    """

    def __init__(self, width: int, heads: int, num_relations: int) -> None:
        super().__init__()
        self.relations = nn.Parameter(torch.randn(num_relations, width) * width**-0.5)
        self.query, self.key_value, self.output = (nn.Linear(width, width) for _ in range(3))
        self.norm_query, self.norm_key_value = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = heads

    def attend(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """What relation tokens read in each picture (B, H, M, D / H), and log-sums (B, H, M) of their attention."""
        queries = self._split(self.norm_query(self.query(self.relations)))
        keys = self._split(self.norm_key_value(self.key_value(patches)))
        scores = queries @ keys.mT * queries.shape[-1] ** -0.5
        return scores.softmax(dim=-1) @ keys, scores.logsumexp(dim=-1)

    def difference(self, read: Tensor, level: Tensor) -> Tensor:
        """What tells the first picture of a pair from the second (N, N, D), summed over relation tokens."""
        share = (level[:, None] - level[None]).sigmoid()
        first = torch.einsum("ijhm,ihmd->ijhd", share, read).flatten(2)
        return self._outputs(first - first.transpose(0, 1), read.shape[2])

    def _outputs(self, summed: Tensor, count: int) -> Tensor:
        """The sum of `count` outputs of which `summed` is the sum of inputs."""
        return F.linear(summed, self.output.weight, count * self.output.bias)

    def _split(self, tokens: Tensor) -> Tensor:
        """(..., H, T, D / H) of tokens (..., T, D)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class Ranker(nn.Module):
    """Scores pictures for a text by `scores`, and compares them in pairs by `comparisons`.

    Args:
        width: D.
        heads: see `Fusion` and `RankAttention`.
        num_layers: see `Fusion`.
        num_text_tokens: see `Fusion`.
        num_relations: see `RankAttention`.
        dropout: see `Fusion`.
    """

    def __init__(
        self, width: int, *, heads: int, num_layers: int, num_text_tokens: int, num_relations: int, dropout: float
    ) -> None:
        super().__init__()
        self.fusion = Fusion(width, heads, num_layers, num_text_tokens, dropout)
        self.norm, self.score = nn.LayerNorm(width), _head(width, 2)
        self.relate = RankAttention(width, heads, num_relations)
        self.norm_difference, self.compare = nn.LayerNorm(width), _head(width, 3)

    def scores(self, patches: Tensor) -> Tensor:
        """(B,) of fused patches (B, P, D)."""
        scores: Tensor = self.score(self.norm(patches).sum(dim=1))[:, 0]
        return scores

    def comparisons(self, read: Tensor, level: Tensor) -> Tensor:
        """Logits (N, N) that the first picture comes before the second, of what `RankAttention.attend` gives."""
        logits: Tensor = self.compare(self.norm_difference(self.relate.difference(read, level)))[..., 0]
        return logits


def _head(width: int, num_layers: int) -> nn.Sequential:
    """Hidden layers and an output."""
    hidden = [part for _ in range(num_layers) for part in (nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())]
    head = nn.Sequential(*hidden, nn.Linear(width, 1))
    for part in head:
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
    return head
