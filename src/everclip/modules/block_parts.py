"""What parameter-efficient methods put into transformer blocks, see `AdaptedBlock`; all zero until it is `reset`.

So what `reset` draws is always something that a checkpoint holds. Legend: N rows, L tokens, D width, H hidden width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbones.blocks import FusedQuickGELU


class Adapter(nn.Module):
    """Two linear layers with GELU between them, D to H to D, beside a layer or behind it; adds nothing until trained.

    Args:
        width: D.
        hidden: H.
        reads: the normalised tokens that the layer reads, or what it puts out.

    Source: arXiv 1902.00751, 2005.00247; umbertocappellazzo/PETL_AST @ 1fe23af, src/AST_adapters.py.
    """

    def __init__(self, width: int, hidden: int, reads: Literal["input", "output"]) -> None:
        super().__init__()
        self.down, self.up = _zero_linear(width, hidden), _zero_linear(hidden, width)
        self.reads = reads

    def reset(self) -> None:
        """Draws the first layer's weights uniformly within 1 / sqrt(D); all others are zero."""
        bound = self.down.in_features**-0.5
        nn.init.uniform_(self.down.weight, -bound, bound)
        _clear(self.down.bias, self.up.weight, self.up.bias)

    def forward(self, normed: Tensor, output: Tensor) -> Tensor:
        up: Tensor = self.up(F.gelu(self.down(normed if self.reads == "input" else output)))
        return up


class Convpass(nn.Module):
    """A convolution over neighbouring tokens, in a bottleneck of H channels beside a layer; adds nothing until trained.

    Args:
        width: D.
        hidden: H.
        causal: tokens are of a text and are convolved with the two before them; else they are a class token, which is
            convolved alone, and the patches of a square picture.
        scale: factor of what is added.
        dropout: probability, behind the convolution.
        kernel: at the start, the `identity` or `xavier` uniform.

    Source: arXiv 2207.07039; JieShibo/PETL-ViT @ 026e4f1, convpass/vtab/convpass.py, which has no texts.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        causal: bool,
        scale: float,
        dropout: float,
        kernel: Literal["identity", "xavier"],
    ) -> None:
        super().__init__()
        self.down, self.up = _zero_linear(width, hidden), _zero_linear(hidden, width)
        self.conv: nn.Conv1d | nn.Conv2d
        self.conv = nn.Conv1d(hidden, hidden, 3) if causal else nn.Conv2d(hidden, hidden, 3, padding=1)
        _clear(self.conv.weight, self.conv.bias)
        self.act, self.drop = FusedQuickGELU(), nn.Dropout(dropout)
        self.causal, self.scale, self.kernel = causal, scale, kernel

    @torch.no_grad()
    def reset(self) -> None:
        """Draws the first layer's weights, and those of the kernel if asked for, from Xavier's uniform distribution."""
        _clear(self.down.bias, self.up.weight, self.up.bias, self.conv.weight, self.conv.bias)
        nn.init.xavier_uniform_(self.down.weight)
        if self.kernel == "xavier":
            nn.init.xavier_uniform_(self.conv.weight)
        else:
            own = self.conv.weight[..., 2] if self.causal else self.conv.weight[..., 1, 1]  # a token's place
            nn.init.eye_(own)

    def forward(self, normed: Tensor, output: Tensor) -> Tensor:
        mixed = self._mix(self.act(self.down(normed)).mT).mT
        up: Tensor = self.up(self.drop(self.act(mixed)))
        return up * self.scale

    def _mix(self, hidden: Tensor) -> Tensor:
        """Tokens (N, H, L) with their neighbours."""
        if self.causal:
            mixed: Tensor = self.conv(F.pad(hidden, (2, 0)))
            return mixed
        side = math.isqrt(hidden.shape[2] - 1)
        first = self.conv(hidden[..., :1, None])[..., 0]
        patches = self.conv(hidden[..., 1:].unflatten(2, (side, side))).flatten(2)
        return torch.cat([first, patches], dim=2)


class Prefix(nn.Module):
    """Keys and values (1, P, D) of a block that belong to no token; never the identity.

    Args:
        width: D.
        length: P.

    Source: arXiv 2101.00190, without the network that makes them there; umbertocappellazzo/PETL_AST @ 1fe23af,
    src/AST_prompt_tuning.py.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(2, length, width))

    def reset(self) -> None:
        """Draws them uniformly within sqrt(6 / (3 * 16 ** 2 + D)), as for patches of 16 pixels."""
        bound = (6 / (3 * 16**2 + self.tokens.shape[2])) ** 0.5
        nn.init.uniform_(self.tokens, -bound, bound)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.tokens[:1], self.tokens[1:]


class DropPath(nn.Module):
    """Leaves out, in training, what a layer adds at some positions, in all rows alike, and scales up the rest.

    Micro-batches draw their own.

    Args:
        rate: probability of a position.

    Source: arXiv 1603.09382, which leaves out whole layers; positions: Shahzadnit/EZ-CLIP @ 2f4d622, clip/model.py,
    whose tokens come first and rows second.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def of(self, tokens: Tensor) -> Tensor:
        """Tokens (N, L, D) without some of their positions."""
        if not self.training or not self.rate:
            return tokens
        kept = torch.rand(tokens.shape[1], 1, device=tokens.device) >= self.rate
        return tokens * kept / (1 - self.rate)

    def forward(self, normed: Tensor, output: Tensor) -> Tensor:
        return self.of(output) - output


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    _clear(layer.weight, layer.bias)
    return layer


def _clear(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        assert tensor is not None  # every layer here has a bias
        nn.init.zeros_(tensor)
