"""Merging tokens of pictures and of clips on their way through an image tower.

Legend: N rows, L tokens of a row, D width, R merged tokens, F pieces of a clip (at first its frames).

Source: arXiv 2210.09461 (ToMe); arXiv 2409.01156 (LunarShen/TempMe @ e624930, tvr/models/module_tome_merge.py and
module_tome_patch.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Tower
from everclip.backbones.insertion import TokenEdit
from everclip.errors import ConfigError


@dataclass(frozen=True)
class Matching:
    """Which tokens of each row are merged into which.

    Attributes:
        fixed: number of first tokens, which stay as they are; those behind are by turns a source and a target.
        staying: (N, S - R, 1) sources that are not merged, in their order.
        merged: (N, R, 1) sources that are.
        into: (N, R, 1) the targets of these.
    """

    fixed: int
    staying: Tensor
    merged: Tensor
    into: Tensor

    def add(self, values: Tensor) -> Tensor:
        """Sums (N, L - R, D) of values (N, L, D) of tokens that become one: first ones, staying sources, targets."""
        first, sources, targets = _parted(values, self.fixed)
        width = values.shape[2]
        staying, merged = (sources.gather(1, index.expand(-1, -1, width)) for index in (self.staying, self.merged))
        return torch.cat([first, staying, targets.scatter_add(1, self.into.expand(-1, -1, width), merged)], dim=1)


@torch.no_grad()
def match(metric: Tensor, count: int, fixed: int) -> Matching:
    """The sources that are most alike to a target, each with the target it is most alike to.

    Args:
        metric: (N, L, D), whose cosine says how alike tokens are.
        count: R.
        fixed: number of first tokens, which are left alone.
    """
    _, sources, targets = _parted(F.normalize(metric, dim=-1), fixed)
    alike, into = (sources @ targets.mT).max(dim=-1)
    order = alike.argsort(dim=-1, descending=True, stable=True)[..., None]
    merged = order[:, :count]
    return Matching(fixed, order[:, count:].sort(dim=1).values, merged, into[..., None].gather(1, merged))


def _parted(tokens: Tensor, fixed: int) -> tuple[Tensor, Tensor, Tensor]:
    """First tokens, sources and targets: of all tokens together, the even ones are sources."""
    even, odd = tokens[:, fixed::2], tokens[:, fixed + 1 :: 2]
    return (tokens[:, :fixed], even, odd) if fixed % 2 == 0 else (tokens[:, :fixed], odd, even)


class TokenMerger(nn.Module):
    """Merges tokens alike in every block, at first of each frame, then of neighbouring frames that become one piece.

    What is trained are vectors that tell the joined pieces apart; they are zero at first.

    Args:
        tower: the image tower.
        frames: T, of a clip.
        layers: blocks that join pieces, ascending; negative ones count from the last.
        factors: how many pieces become one in each of these.
        tokens: R in the blocks before.
        clip_share: part of the tokens of a joined piece that is merged as it is joined.
        image_share: part of the tokens of a piece that is merged in the first joining block and all behind it.

    Raises:
        ValueError: settings that do not fit together, or the tower.
    """

    def __init__(
        self,
        tower: Tower,
        *,
        frames: int,
        layers: Sequence[int],
        factors: Sequence[int],
        tokens: int,
        clip_share: float,
        image_share: float,
    ) -> None:
        super().__init__()
        if len(layers) != len(factors) or frames % math.prod(factors):
            raise ValueError(
                f"layers={list(layers)}, factors={list(factors)}: one factor for each layer, and their product "
                f"{math.prod(factors)} divides frames={frames}"
            )
        numbers = [layer % tower.layers for layer in layers if -tower.layers <= layer < tower.layers]
        if numbers != sorted(set(numbers)) or len(numbers) < len(layers):
            raise ValueError(f"layers={list(layers)} must ascend, among the {tower.layers} blocks of the image tower")
        self.heads, self.frames, self.layers, self.factors = tower.heads, frames, numbers, tuple(factors)
        self.tokens, self.clip_share, self.image_share = tokens, clip_share, image_share
        pieces = [frames // math.prod(factors[:index]) for index in range(len(factors))]
        self.positions = nn.ParameterList(torch.zeros(count, 1, tower.width) for count in pieces)

    def reset(self) -> None:
        """Sets the vectors to zero."""
        for position in self.positions:
            nn.init.zeros_(position)

    def edit(self, frames: int) -> TokenMerging:
        """For one pass of clips of so many frames, all frames of a clip one after the other; of pictures if it is 1.

        Raises:
            ConfigError: another number than there are vectors for.
        """
        if self.factors and frames not in (1, self.frames):
            raise ConfigError(
                f"clips of {frames} frames, but method.frames={self.frames}: set method.frames={frames} with "
                "method.factors whose product divides it, or let the sequence read other clips "
                f"(sequence.dataset.clips.sampling.frames={self.frames})"
            )
        return TokenMerging(self, frames)


class TokenMerging(TokenEdit):
    """Merges the tokens of clips, or pictures, in one pass; each class token that is left is read out.

    Args:
        merger: how.
        frames: T, of a clip.
    """

    halved = True
    pooled = False

    def __init__(self, merger: TokenMerger, frames: int) -> None:
        self.merger = merger
        self.pieces = frames
        self.fixed = 1  # class tokens of a piece, as many as it has frames
        self.size: Tensor | None = None  # (N, L, 1) how many tokens each one was; None: one
        self.readout = slice(0, 1 if frames == 1 else math.prod(merger.factors))

    @override
    def before(self, layer: int, tokens: Tensor) -> Tensor:
        if layer not in self.merger.layers:
            return tokens
        index = self.merger.layers.index(layer)
        rows, length, width = tokens.shape
        clips = tokens.reshape(rows // self.pieces, self.pieces, length, width)
        placed = (clips + self.merger.positions[index][: self.pieces]).flatten(0, 1)
        if self.pieces == 1:
            return placed
        factor = self.merger.factors[index]
        count = min(int(length * factor * self.merger.clip_share), (length - self.fixed) * factor // 2)
        metric, placed = self._joined(tokens, factor), self._joined(placed, factor)
        self.size = None if self.size is None else self._joined(self.size, factor)
        self.pieces //= factor
        self.fixed *= factor
        return self._merged(placed, metric, count)

    @override
    def weigh(self, keys: Tensor) -> Tensor | None:
        self.metric = keys.detach().unflatten(-1, (self.merger.heads, -1)).mean(dim=2)
        return None if self.size is None else self.size[..., 0].log()

    @override
    def between(self, layer: int, tokens: Tensor) -> Tensor:
        merger, length = self.merger, tokens.shape[1]
        joining = bool(merger.layers) and layer >= merger.layers[0]
        count = int(length * merger.image_share) if joining else merger.tokens
        return self._merged(tokens, self.metric, min(count, (length - self.fixed) // 2))

    def _joined(self, rows: Tensor, factor: int) -> Tensor:
        """Neighbouring rows (N, L, D) as one (N / factor, factor L, D), all class tokens in front."""
        pieces = rows.reshape(len(rows) // factor, factor, *rows.shape[1:])
        return torch.cat([pieces[:, :, : self.fixed].flatten(1, 2), pieces[:, :, self.fixed :].flatten(1, 2)], dim=1)

    def _merged(self, tokens: Tensor, metric: Tensor, count: int) -> Tensor:
        """Tokens (N, L - count, D), each the mean of those that it was; keeps their new sizes."""
        if count < 1:
            return tokens
        matching = match(metric, count, self.fixed)
        size = torch.ones_like(tokens[..., :1]) if self.size is None else self.size
        self.size = matching.add(size)
        return matching.add(tokens * size) / self.size
