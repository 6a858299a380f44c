"""Alignment of neighbouring frames of a clip: points where they interact, masks around them, and what is fed back.

Legend: B clips, T frames, P = T - 1 pairs of neighbours, L tokens of a frame (class token first, then a grid of G by G
patches), D width, C channels of what a pair has in common.

Source: arXiv 2304.10465; Francis-Rings/ILA @ 1a912d9 (models/align.py, models/mat.py), branch SSV2 @ 47c93d0.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.insertion import TokenEdit
from everclip.errors import ConfigError

Norm = Literal["batch", "group"]
GROUPS = 8
SMALLEST = 4  # which is halved twice
REACH = 0.75  # of points from the centre of a picture, whose edge is at 1


class Alignment(nn.Module):
    """What a frame of a clip gets from its neighbours, in front of one block; adds nothing until trained.

    Args:
        width: D.
        channels: C, a multiple of 16.
        separable: whether the first convolution over a pair is a depthwise and a pointwise one, not a plain one.
        norm: of convolutions, over the `batch` or a `group` of channels.
    """

    def __init__(self, width: int, channels: int, separable: bool, norm: Norm) -> None:
        super().__init__()
        half = channels // 2
        self.message, self.message_norm = nn.Linear(width, width), nn.LayerNorm(width)
        first = [nn.Conv2d(2 * width, channels, 3, padding=1)]
        if separable:
            first = [nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width), nn.Conv2d(2 * width, channels, 1)]
        convolutions = [*first, nn.Conv2d(channels, channels, 3, padding=1)]
        self.interact = nn.Sequential(
            *(layer for conv in convolutions for layer in (conv, _norm(norm, conv.out_channels), nn.ReLU()))
        )
        self.look = nn.Sequential(
            *(
                layer
                for conv in (nn.Conv2d(channels, half, 3, padding=1), nn.Conv2d(half, half, 3, padding=1))
                for layer in (conv, _norm(norm, half), nn.MaxPool2d(2), nn.ReLU())
            ),
            nn.AdaptiveMaxPool2d(1),
            nn.Conv2d(half, half // 2, 1, groups=2),
            nn.ReLU(),
            nn.Conv2d(half // 2, 4, 1, groups=2),
        )
        self.over_time, self.widen = nn.Conv1d(half, half, 3, padding=1), nn.Linear(half, width)
        self.add_aligned, self.add_common = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.look[-1], self.add_aligned, self.add_common):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]  # all are linear or convolve
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, frames: int, spread: float) -> tuple[Tensor, Tensor]:
        """What is added to tokens (B * T, L, D), and one minus the cosine of each pair's aligned sums (B, P).

        Args:
            tokens: the frames of a clip one after the other, at least two.
            frames: T.
            spread: how far around a point masks are averaged; 0: nowhere else.

        Raises:
            ConfigError: there are too few patches to look at.
        """
        said = self.message_norm(self.message(tokens)).unflatten(0, (len(tokens) // frames, frames))
        side = math.isqrt(tokens.shape[1] - 1)
        if side < SMALLEST:
            raise ConfigError(
                f"frames are aligned by at least {SMALLEST} by {SMALLEST} patches, but this backbone has {side} by "
                f"{side}; use for example backbone=vit_b16_openai"
            )
        grid = said[:, :, 1:].mT.unflatten(3, (side, side))  # (B, T, D, G, G)
        before, after = grid[:, :-1], grid[:, 1:]
        common = self.interact(torch.cat([before, after], dim=2).flatten(0, 1))
        points = REACH * torch.tanh(self.look(common).flatten(1)).unflatten(0, before.shape[:2])
        first = masks(points[..., :2], side, spread)[:, :, None] * before
        second = masks(points[..., 2:], side, spread)[:, :, None] * after
        apart = 1 - F.cosine_similarity(first.sum(dim=(3, 4)), second.sum(dim=(3, 4)), dim=-1)
        aligned = merged(first, second).flatten(3).mT
        shared = merged(*common.unflatten(0, before.shape[:2]).chunk(2, dim=2)).flatten(3)  # (B, T, C / 2, G * G)
        mixed = self.over_time(shared.permute(0, 3, 2, 1).flatten(0, 1))
        widened = self.widen(mixed.mT).unflatten(0, (len(said), side * side)).transpose(1, 2)
        own = said[:, :, :1]
        added = self.add_aligned(torch.cat([own, aligned], dim=2)) + self.add_common(torch.cat([own, widened], dim=2))
        return added.flatten(0, 1), apart


class Aligning(TokenEdit):
    """Adds in front of some blocks what alignments make of the tokens; for one pass.

    Args:
        alignments: by the number of their block.
        frames: of a clip.
        spread: see `Alignment`.
    """

    def __init__(self, alignments: nn.ModuleDict, frames: int, spread: float) -> None:
        self.alignments, self.frames, self.spread = alignments, frames, spread
        self.apart: list[Tensor] = []  # (B, P) of every block

    @override
    def before(self, layer: int, tokens: Tensor) -> Tensor:
        if str(layer) not in self.alignments:
            return tokens
        added, apart = self.alignments[str(layer)](tokens, self.frames, self.spread)
        self.apart.append(apart)
        return tokens + added


def masks(points: Tensor, side: int, spread: float) -> Tensor:
    """Masks (..., G, G) around points (..., 2), x and y in a picture from -1 to 1, the mean over a grid of nine each.

    A mask is 1 up to a quarter beside its point, in each direction, and falls to 0 over two thirds more.

    Args:
        points: (..., 2).
        side: G.
        spread: between the points of the grid.
    """
    places = torch.linspace(-1, 1, side, device=points.device, dtype=points.dtype)
    steps = points.new_tensor([-spread, 0, spread] if spread else [0])
    far = (places - (points[..., None] + steps)[..., None]).abs()  # (..., 2, steps, G)
    near = (1 - 1.5 * (far - 0.25)).clamp(0, 1).mean(dim=-2)  # over the grid, whose directions are independent
    across, down = near.unbind(dim=-2)
    return down[..., :, None] * across[..., None, :]


def merged(before: Tensor, after: Tensor) -> Tensor:
    """Frames (B, T, ...) of pairs (B, P, ...): a frame is the mean of what it is in the pairs that it has part in."""
    middle = (before[:, 1:] + after[:, :-1]) / 2
    return torch.cat([before[:, :1], middle, after[:, -1:]], dim=1)


def _norm(kind: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(GROUPS, channels)
