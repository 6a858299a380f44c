"""Points of clips at several strides, each of which says whether a moment is there and how far away its ends are.

B clips, T frames, N points of all strides, M moments, D width. Times are in frames.

Source: arXiv 2404.00801 (yeliudev/R2-Tuning @ 03fbcf6, models/generator.py, models/blocks.py, models/loss.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

RADIUS = 1.5  # strides from a moment's middle that its points may be away


class Points(NamedTuple):
    """Where points are and what is theirs to find.

    Attributes:
        times: (N,) of the points.
        strides: (N,) that they are apart.
        nearest: (N,) the least distance to the farther end of a moment that is theirs.
        farthest: (N,) the greatest.
        counts: points of each stride.
    """

    times: Tensor
    strides: Tensor
    nearest: Tensor
    farthest: Tensor
    counts: tuple[int, ...]


def points(like: Tensor, strides: Sequence[int]) -> Points:
    """The points of clips of T frames, without strides that are longer than a clip.

    Args:
        like: (B, T, ...), the device and kind of numbers.
        strides: powers of two, rising.
    """
    length, ends = like.shape[1], (0, *strides[1:], math.inf)
    rows = [
        like.new_tensor([(place * stride, stride, ends[level], ends[level + 1]) for place in range(length // stride)])
        for level, stride in enumerate(strides)
        if stride <= length
    ]
    times, apart, nearest, farthest = torch.cat(rows).unbind(1)
    return Points(times, apart, nearest, farthest, tuple(map(len, rows)))


def targets(at: Points, moments: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Which points have a moment to find (B, N), and how far from them its start and end are (B, N, 2), in strides.

    Of several moments, the shortest.

    Args:
        at: N of them.
        moments: (B, M, 2) as shares of the clip, -1 where there are fewer; those shorter than a frame count as one.
        length: T.
    """
    starts, ends = (length * moments).mT[:, :, None].unbind(1)  # (B, 1, M)
    middle, half = (starts + ends) / 2, ((ends - starts) / 2).clamp(min=0.5)
    middle = torch.where(half > 0.5, middle, middle.clamp(0.5, length - 0.5))
    times, strides = at.times[:, None], at.strides[:, None]
    distances = torch.stack([times - middle + half, middle + half - times], dim=-1)  # (B, N, M, 2)
    inside = (distances.amin(-1) >= 0) & ((times - middle).abs() <= RADIUS * strides) & (starts >= 0)
    farther = distances.amax(-1)
    own = inside & (farther >= at.nearest[:, None]) & (farther <= at.farthest[:, None])
    shortest = torch.where(own, half, torch.inf).argmin(dim=-1)[..., None, None].expand(-1, -1, 1, 2)
    return own.any(dim=-1), distances.gather(2, shortest)[:, :, 0] / strides


def spans(at: Points, distances: Tensor, length: int, whole_frames: bool) -> Tensor:
    """Moments (B, N, 2) as shares of clips, by distances (B, N, 2) in strides.

    Args:
        at: N of them.
        distances: to start and end.
        length: T.
        whole_frames: begin and end between frames, except moments that reach the clip's end.
    """
    ends = at.times[:, None] + distances * distances.new_tensor([-1, 1]) * at.strides[:, None]
    kept = ends.clamp(0, length)
    if whole_frames:
        kept = torch.where(ends[..., 1:] < length, kept.round(), kept)
    return kept / length


def per_frame(at: Points, values: Tensor, length: int) -> Tensor:
    """The largest (B, T) of what the points (B, N) of each stride say of a frame."""
    levels = []
    for own in values.split(at.counts, dim=1):
        spread = own.repeat_interleave(length // own.shape[1], dim=1)
        levels.append(torch.cat([spread, spread[:, -1:].expand(-1, length - spread.shape[1])], dim=1))
    return torch.stack(levels).amax(dim=0)


class MomentHeads(nn.Module):
    """Scores and distances of points, by convolutions that all strides share.

    Args:
        width: D.
        strides: powers of two.
    """

    def __init__(self, width: int, strides: Sequence[int]) -> None:
        super().__init__()
        depths = [stride.bit_length() - 1 for stride in strides]
        self.pyramid = nn.ModuleList(nn.Sequential(*(_Halved(width) for _ in range(depth))) for depth in depths)
        self.score, self.distance = _Head(width, 1), _Head(width, 2)
        self.factors = nn.Parameter(torch.ones(len(strides)))
        self.strides = tuple(strides)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, N) and distances (B, N, 2) in strides, of what frames (B, T, D) show."""
        scores, distances = [], []
        for level, stride in enumerate(self.strides):
            if stride <= hidden.shape[1]:
                own = self.pyramid[level](hidden)
                scores.append(self.score(own)[..., 0])
                distances.append(self.distance(own).exp() * self.factors[level])
        return torch.cat(scores, dim=1), torch.cat(distances, dim=1)


class _Halved(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.join, self.norm = nn.Conv1d(width, width, 2, stride=2), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.norm(self.join(x.mT).mT)
        return joined.relu()


class _Head(nn.Module):
    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, out_width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.layers(x.mT)
        return values.mT
