"""Binary masks over weights, learned by scores, and the rule by which a step of theirs keeps general knowledge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from everclip.backbones.base import Backbone
from everclip.modules.tower_blocks import tower_blocks

Target = Literal["patch", "attention", "mlp"]
BITS = tuple(1 << bit for bit in range(8))


class Mask(nn.Module):
    """Parametrisation of a weight: switches parts of it off.

    While it is trained, a part is on if its score is above a threshold, and the gradient of the mask is that of the
    scores. Otherwise it is one bit of a part; none says that all are on.

    Args:
        weight: what is masked, of any shape.
        start: score of a part that is on when training begins; of one that is off, it is zero.
        threshold: between zero and `start`.
    """

    scores: nn.Parameter
    bits: Tensor

    def __init__(self, weight: Tensor, start: float, threshold: float) -> None:
        super().__init__()
        self.shape, self.size = weight.shape, prod(weight.shape)
        self.start, self.threshold = start, threshold
        self.scores = nn.Parameter(weight.new_empty(0))
        self.register_buffer("bits", torch.empty(0, dtype=torch.uint8, device=weight.device))
        self.lifted = False

    def begin(self) -> None:
        """Makes scores of the bits."""
        on = self.on()
        self.scores = nn.Parameter(self.start * on.to(self.scores.dtype))

    def end(self) -> None:
        """Makes bits of the scores."""
        on = self.on().flatten()
        padded = torch.cat([on, on.new_zeros(-len(on) % 8)]).unflatten(0, (-1, 8))
        self.bits = (padded * torch.tensor(BITS, dtype=torch.uint8, device=on.device)).sum(dim=1, dtype=torch.uint8)
        self.scores = nn.Parameter(self.scores.new_empty(0))

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`: the bits."""
        return (self.size + 7) // 8

    def on(self) -> Tensor:
        """Which parts are on, of the weight's shape."""
        if self.scores.numel():
            return self.scores.detach() > self.threshold
        if not len(self.bits):
            return torch.ones(self.shape, dtype=torch.bool, device=self.bits.device)
        places = torch.tensor(BITS, dtype=torch.uint8, device=self.bits.device)
        return (self.bits[:, None] & places).ne(0).flatten()[: self.size].view(self.shape)

    def forward(self, weight: Tensor) -> Tensor:
        if self.lifted or not (self.scores.numel() or len(self.bits)):
            return weight
        mask = self.on().to(weight.dtype)
        if self.scores.numel():
            mask = mask + (self.scores - self.scores.detach())  # zero; the mask's gradient goes straight to the scores
        return weight * mask


def add_masks(backbone: Backbone, targets: Sequence[Target], *, start: float, threshold: float) -> list[Mask]:
    """Puts masks onto weights of the image tower, in place; gives them.

    Args:
        backbone: its own weights stay what they were.
        targets: the convolution that makes tokens of patches; both projections of attention; both layers of MLPs.
        start: see `Mask`.
        threshold: see `Mask`.

    Raises:
        ValueError: a target that is not there.
    """
    places: dict[str, list[tuple[nn.Module, str]]] = {"patch": [], "attention": [], "mlp": []}
    for name, module in backbone.named_modules():
        if f".{name}".endswith(".visual.conv1"):
            places["patch"].append((module, "weight"))
    for block in tower_blocks(backbone, "vision")["vision"]:
        places["attention"] += [(block.attn, "in_proj_weight"), (block.attn.out_proj, "weight")]
        places["mlp"] += [(block.mlp.c_fc, "weight"), (block.mlp.c_proj, "weight")]
    added = []
    for target in targets:
        if not places[target]:
            raise ValueError(f"targets={list(targets)}: the image tower has no {target} weights")
        for module, name in places[target]:
            added.append(Mask(getattr(module, name), start, threshold))
            parametrize.register_parametrization(module, name, added[-1])
    return added


@contextmanager
def lifted(masks: Sequence[Mask]) -> Iterator[None]:
    """The weights as they are without masks."""
    for mask in masks:
        mask.lifted = True
    try:
        yield
    finally:
        for mask in masks:
            mask.lifted = False


def gradient_dropout(task: Tensor, general: Tensor, draw: Tensor, strength: float) -> Tensor:
    """The gradient of a task, dropped at random where it goes against that of general knowledge.

    Args:
        task: of any shape.
        general: of the same.
        draw: uniform in [0, 1); where signs differ, a value stays with probability |task| / (|task| + |general|).
        strength: share of a dropped value that goes.

    Source: arXiv 2307.15049, there gradient dropout regularity (`graddrop_backward_and_update` of wuw2019/R-AMT @
    07f8d2c).
    """
    agreement = task.sign() * (task + general) / (task.abs() + general.abs() + 1e-8)
    kept = (1 + agreement) / 2 > draw
    return (1 - strength + strength * kept) * task
