"""Low-rank updates of weight matrices (LoRA), put onto the weights themselves, so that they act wherever one is read.

open_clip's attention reads the weights of its projections instead of calling modules, and so does the own forward pass
of `backbones.blocks`; a wrapper around modules would be passed by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.utils import parametrize

from everclip.backbones.base import Backbone
from everclip.backbones.blocks import AdaptedBlock
from everclip.modules.tower_blocks import Towers, adapt_blocks, tower_blocks

Target = Literal["q", "k", "v", "qkv", "o", "fc", "proj"]
QKV: tuple[Target, ...] = ("q", "k", "v")
EVERY_TARGET: tuple[Target, ...] = (*QKV, "o", "fc", "proj")


class LowRank(nn.Module):
    """A weight plus `scale * up @ diag(gate) @ down` for some groups of its rows, plus what was merged earlier.

    The identity until `reset` and the first step. Merged factors are kept as such, not added to the weight: a
    checkpoint then holds few numbers, and a restored weight is the same to the last bit.

    Args:
        weight: (parts * O, I), what is parametrised.
        rank: R, of each group.
        groups: which of the `parts` equal groups of rows are updated, each by factors of its own (G of them).
        parts: number of groups of rows: 3 for queries, keys and values in one matrix.
        scale: alpha / R of the paper.
        gated: whether every component has a learned importance.

    Source: arXiv 2106.09685 section 4.1; gates: arXiv 2412.01004 (Artificer-AI-Lab/CoDyRA @ c1691e4,
    loralib/codyra.py).
    """

    groups: Tensor
    merged_down: Tensor
    merged_up: Tensor

    def __init__(
        self, weight: Tensor, rank: int, groups: Sequence[int], parts: int, *, scale: float = 1.0, gated: bool = False
    ) -> None:
        super().__init__()
        rows, columns = weight.shape
        shape = len(groups), rows // parts
        self.scale = scale
        self.parts = parts
        self.down = nn.Parameter(weight.new_zeros(shape[0], rank, columns))
        self.up = nn.Parameter(weight.new_zeros(*shape, rank))
        self.gate = nn.Parameter(weight.new_zeros(shape[0], 1, rank)) if gated else None
        self.register_buffer("merged_down", weight.new_zeros(shape[0], 0, columns))
        self.register_buffer("merged_up", weight.new_zeros(*shape, 0))
        self.register_buffer("groups", torch.tensor(groups, device=weight.device), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        change = self._scaled_up() @ self.down
        if self.merged_up.shape[-1]:
            change = change + self.merged_up @ self.merged_down
        change = change.to(weight.dtype)  # a product is of lower precision under autocast
        if len(change) == self.parts:
            return weight + change.flatten(0, 1)
        return weight.unflatten(0, (self.parts, -1)).index_add(0, self.groups, change).flatten(0, 1)

    def of_dropped(self, x: Tensor, dropout: float) -> Tensor:
        """What dropout on the input of the factors alone adds to the output (..., parts * O); each group drops its own.

        Args:
            x: (..., I).
            dropout: probability, of every value by itself.
        """
        more = [x.new_zeros(*x.shape[:-1], self.up.shape[1])] * self.parts
        for group, up, down in zip(self.groups.tolist(), self._scaled_up(), self.down, strict=True):
            more[group] = F.linear(F.linear(F.dropout(x, dropout) - x, down), up)
        return torch.cat(more, dim=-1)

    def _scaled_up(self) -> Tensor:
        up = self.up if self.gate is None else self.up * self.gate
        return up if self.scale == 1 else self.scale * up

    @torch.no_grad()
    def reset(self, gate: Literal["normal", "ones"] = "ones") -> None:
        """Draws `down` uniformly within 1 / sqrt(I), and the gates; sets `up` to zero."""
        bound = self.down.shape[-1] ** -0.5
        self.down.uniform_(-bound, bound)
        self.up.zero_()
        if self.gate is not None:
            self.gate.normal_() if gate == "normal" else self.gate.fill_(1)

    @torch.no_grad()
    def merge(self) -> None:
        """Keeps the components whose gate is not zero for good; the weight changes once the factors are `reset`."""
        up, down = self._scaled_up(), self.down.detach()
        used = torch.ones_like(up[:, :1]) if self.gate is None else self.gate.ne(0).to(up.dtype)
        order = used.argsort(dim=-1, descending=True, stable=True)  # groups may differ in number: zeros fill up
        most = int(used.sum(dim=-1).max())
        up = up.gather(2, order.expand_as(up))[..., :most]
        down = down.gather(1, order.mT.expand_as(down))[:, :most]
        self.merged_up = torch.cat([self.merged_up, up], dim=2)
        self.merged_down = torch.cat([self.merged_down, down], dim=1)


class DroppedInput(nn.Module):
    """Dropout, in training, on what an update of queries, keys and values reads; a part of `AdaptedBlock`.

    Args:
        update: of the block's weight.
        dropout: probability.
    """

    def __init__(self, update: LowRank, dropout: float) -> None:
        super().__init__()
        self._update = (update,)  # a tuple: it is part of the weight, and of the state, only once
        self.dropout = dropout

    def forward(self, normed: Tensor) -> Tensor | None:
        return self._update[0].of_dropped(normed, self.dropout) if self.training else None


def add_low_rank(
    backbone: Backbone,
    *,
    rank: int,
    targets: Sequence[Target],
    towers: Towers,
    scale: float = 1.0,
    gated: bool = False,
    dropout: float = 0.0,
) -> list[LowRank]:
    """Puts low-rank updates onto the weights of every transformer block, in place; gives them.

    Args:
        backbone: its own weights stay what they were, trainable or not.
        rank: of each update.
        targets: projections of queries, keys, values, all three by one update (`qkv`), outputs; first and second layer
            of the MLP.
        towers: where.
        scale: factor of every update.
        gated: see `LowRank`.
        dropout: on what the updates of queries, keys and values read, in training.

    Raises:
        ValueError: a tower that is no plain transformer, dropout before other updates, or `qkv` beside its parts.
    """
    if "qkv" in targets and set(QKV).intersection(targets):
        raise ValueError(f"targets={list(targets)}: qkv is one update of q, k and v; name either it or these")
    if dropout and (others := [target for target in targets if target not in (*QKV, "qkv")]):
        raise ValueError(f"dropout={dropout} is for updates of q, k and v, not of {', '.join(others)}; leave these out")
    added = []
    for blocks in (adapt_blocks if dropout else tower_blocks)(backbone, towers).values():
        for block in blocks:
            for module, name, groups, parts in _places(block, targets):
                update = LowRank(getattr(module, name), rank, groups, parts, scale=scale, gated=gated)
                parametrize.register_parametrization(module, name, update)
                added.append(update)
                if dropout:
                    block.parts["projections"] = DroppedInput(update, dropout)
    return added


def merged_bytes(updates: Sequence[LowRank], sessions: int) -> int:
    """Bytes that updates which are merged before every session but the first grow by in so many sessions."""
    return (sessions - 1) * sum(p.nbytes for update in updates for p in (update.down, update.up))


def fold(backbone: Backbone) -> None:
    """Makes plain weights of what parametrisations compute, in place: the architecture is the original one again."""
    for module in list(backbone.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name)
        if isinstance(module, AdaptedBlock) and "projections" in module.parts:
            del module.parts["projections"]


def soft_threshold(values: Tensor, kappa: float, rule: Literal["code", "exact"] = "exact") -> Tensor:
    """Values moved towards zero by `kappa`, and zero where they would cross it.

    Args:
        values: of any shape.
        kappa: not negative.
        rule: `code` also makes zero what is then smaller than `kappa`, all that was smaller than twice `kappa`; so does
            the official code of CoDyRA.
    """
    shrunk = F.softshrink(values, kappa)
    return shrunk.masked_fill(shrunk.abs() < kappa, 0) if rule == "code" else shrunk


def _places(
    block: ResidualAttentionBlock, targets: Sequence[Target]
) -> Iterator[tuple[nn.Module, str, Sequence[int], int]]:
    """Where the weights are that targets name: module, attribute, groups of rows, their number."""
    groups = [index for index, target in enumerate(QKV) if target in targets]
    if groups:
        yield block.attn, "in_proj_weight", groups, 3
    if "qkv" in targets:
        yield block.attn, "in_proj_weight", [0], 1
    for target, module in {"o": block.attn.out_proj, "fc": block.mlp.c_fc, "proj": block.mlp.c_proj}.items():
        if target in targets:
            yield module, "weight", [0], 1
