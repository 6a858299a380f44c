"""Deep prompts: learned tokens inserted into a tower, one group per block."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from everclip.backbones.insertion import TokenEdit

PromptMode = Literal["replace", "accumulate", "accumulate_same"]


class DeepPrompts(TokenEdit):
    """Inserts prompts[0] into the embedded tokens and prompts[i] before block i, for one forward pass.

    Args:
        prompts: (depth, P, D) tokens, the same for all rows of a batch, or (depth, N, P, D). Blocks from `depth` on
            get none of their own.
        mode: what becomes of the slots before block i: `replace` overwrites them by prompts[i] (P slots throughout);
            `accumulate` keeps their outputs and adds prompts[i] behind them (P * (i + 1) slots); `accumulate_same`
            refills them with the raw prompts[0..i].
        position: `start` (behind the first token) or `end` (behind the last).
    """

    def __init__(self, prompts: Tensor, mode: PromptMode, position: Literal["start", "end"]) -> None:
        self.prompts = prompts
        self.mode = mode
        self.position = position
        self.slots = 0

    def _with_slots(self, tokens: Tensor, slots: Tensor) -> Tensor:
        """`tokens` with the content of the prompt slots exchanged for `slots`, shared (S, D) or per row (N, S, D)."""
        slots = slots.to(tokens.dtype).expand(len(tokens), -1, -1)
        before, self.slots = self.slots, slots.shape[1]
        if self.position == "start":
            return torch.cat([tokens[:, :1], slots, tokens[:, 1 + before :]], dim=1)
        return torch.cat([tokens[:, : tokens.shape[1] - before], slots], dim=1)

    def embed(self, tokens: Tensor) -> Tensor:
        return self._with_slots(tokens, self.prompts[0])

    def before(self, layer: int, tokens: Tensor) -> Tensor:
        if not 0 < layer < len(self.prompts):
            return tokens
        if self.mode == "replace":
            return self._with_slots(tokens, self.prompts[layer])
        if self.mode == "accumulate_same":
            return self._with_slots(tokens, torch.cat(list(self.prompts[: layer + 1]), dim=-2))
        first = 1 if self.position == "start" else tokens.shape[1] - self.slots
        outputs = tokens[:, first : first + self.slots]
        own = self.prompts[layer].to(tokens.dtype).expand(len(tokens), -1, -1)
        return self._with_slots(tokens, torch.cat([outputs, own], dim=1))
