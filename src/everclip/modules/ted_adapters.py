"""Adapters of clips in the residual stream: over time, of differences in time, and plain ones for texts.

Legend: N rows, which are frames where there are several, L tokens (class token first, then a square grid), D width, H
hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.insertion import TokenEdit

Place = Literal["attention", "mlp"]  # in front of which an adapter stands


class Bottleneck(nn.Module):
    """Two linear layers with GELU between them, D to H to D.

    Args:
        width: D.
        hidden: H.
        zero_init: begin with nothing to add; else both layers are drawn.
    """

    def __init__(self, width: int, hidden: int, zero_init: bool) -> None:
        super().__init__()
        self.down, self.up = _linear(width, hidden), _linear(hidden, width)
        if zero_init:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.up(F.gelu(self.down(x)))
        return added


class OverTime(nn.Module):
    """Every token beside the same token of the frames before and after, channel by channel in H of them.

    Adds nothing until trained: the kernel is zero.

    Args:
        width: D.
        hidden: H.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = _linear(width, hidden), _linear(hidden, width)
        self.kernel, self.bias = nn.Parameter(torch.zeros(3, hidden)), nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """What is added to rows (N, ..., D), the frames of a clip one after the other."""
        hidden = self.down(x).unflatten(0, (len(x) // frames, frames))
        none = torch.zeros_like(hidden[:, :1])
        padded = torch.cat([none, hidden, none], dim=1)
        mixed = self.bias
        for step, weight in enumerate(self.kernel):
            mixed = mixed + weight * padded[:, step : step + frames]
        added: Tensor = self.up(mixed.flatten(0, 1))
        return added


class Differences(nn.Module):
    """What patches have become since the frame before, convolved in their grid channel by channel in H of them.

    The first frame has no differences. Adds nothing until trained: the kernel is zero.

    Args:
        width: D.
        hidden: H.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = _linear(width, hidden), _linear(hidden, width)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # there is one

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """What is added to the patches (N, L - 1, D) of tokens (N, L, D), the frames of a clip one after the other."""
        patches = x[:, 1:].unflatten(0, (len(x) // frames, frames))
        change = torch.cat([torch.zeros_like(patches[:, :1]), patches.diff(dim=1)], dim=1).flatten(0, 1)
        side = math.isqrt(change.shape[1])
        grid = self.down(change).mT.unflatten(2, (side, side))
        added: Tensor = self.up(self.conv(grid).flatten(2).mT)
        return added


class TedAdapter(nn.Module):
    """`OverTime` and `Differences` beside each other: temporal enhancement and difference.

    Args:
        width: D.
        hidden: H.
        patches: whether what patches become is read at all; else there are no differences.
    """

    def __init__(self, width: int, hidden: int, patches: bool) -> None:
        super().__init__()
        self.enhancement = OverTime(width, hidden)
        self.difference = Differences(width, hidden) if patches else None

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """What is added to tokens (N, L, D)."""
        added: Tensor = self.enhancement(x, frames)
        return added if self.difference is None else added + F.pad(self.difference(x, frames), (0, 0, 1, 0))


class Adapters(nn.ModuleDict):
    """Adapters in front of attention or MLP of some blocks of a tower.

    Args:
        make: one of them, by place and block.
        layers: numbers of the blocks, from 0.
        places: in front of what.
    """

    def __init__(self, make: Callable[[Place, int], nn.Module], layers: Iterable[int], places: Sequence[Place]) -> None:
        super().__init__({f"{place}_{layer}": make(place, layer) for layer in layers for place in places})

    def added(self, place: Place, layer: int, tokens: Tensor, *about: int) -> Tensor:
        """Tokens (N, L, D) with what the adapter adds, if there is one."""
        name = f"{place}_{layer}"
        return tokens + self[name](tokens, *about) if name in self else tokens


class Adapting(TokenEdit):
    """Adds to the residual stream, before attention or MLP of some blocks, what adapters make of it; for one pass.

    Args:
        adapters: of a tower.
        about: what they are told besides the tokens.
    """

    halved = True
    watched = True
    tokens: Tensor  # (N, L, D) after the last block

    def __init__(self, adapters: Adapters, *about: int) -> None:
        self.adapters, self.about = adapters, about

    @override
    def before(self, layer: int, tokens: Tensor) -> Tensor:
        return self.adapters.added("attention", layer, tokens, *self.about)

    @override
    def between(self, layer: int, tokens: Tensor) -> Tensor:
        return self.adapters.added("mlp", layer, tokens, *self.about)

    @override
    def after(self, tokens: Tensor) -> None:
        self.tokens = tokens


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A layer drawn as PyTorch does, but without a bias at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.bias)
    return layer
