"""Deep prompts: learned tokens inserted into a tower, one group per block.

Shapes: J blocks with prompts of their own, P prompts of a block, D width of the tower, N rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit

PromptMode = Literal["replace", "accumulate", "accumulate_same"]


class DeepPrompts(TokenEdit):
    """Inserts prompts[0] into the embedded tokens and prompts[i] before block i, for one forward pass.

    Args:
        prompts: (depth, P, D) tokens, the same for all rows of a batch, or (depth, G, P, D) for as many groups of
            consecutive rows, of one size. Blocks from `depth` on get none of their own.
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
        self.front = 1 + prompts.shape[-2] if position == "start" else 0
        self.groups = prompts.shape[1] if prompts.ndim == 4 else 1
        self.alike = self.groups == 1

    def _with_slots(self, tokens: Tensor, slots: Tensor) -> Tensor:
        """`tokens` with the content of the prompt slots exchanged for `slots`, shared (S, D) or per group (G, S, D)."""
        slots = self._of_rows(slots, tokens)
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
        return self._with_slots(tokens, torch.cat([outputs, self._of_rows(self.prompts[layer], tokens)], dim=1))

    def _of_rows(self, slots: Tensor, tokens: Tensor) -> Tensor:
        """(N, S, D) for rows of tokens."""
        slots = slots.to(tokens.dtype)
        rows = tokens.shape[0]  # not `len`, which would make of their number a constant in a graph
        if slots.ndim == 2:
            return slots.expand(rows, -1, -1)
        return slots if slots.shape[0] == rows else slots.repeat_interleave(rows // slots.shape[0], dim=0)


def random_prompts(backbone: Backbone, tower: Literal["text", "vision"], length: int, depth: int | None) -> Tensor:
    """Prompts (J, P, D) for the input and the first blocks of a tower, with a standard deviation of 0.02.

    Args:
        backbone: with access to the tower's tokens.
        tower: which they are for.
        length: P.
        depth: J, None for every block.

    Raises:
        ValueError: a tower without access to its tokens, or with fewer blocks.
    """
    size = backbone.text if tower == "text" else backbone.vision
    if size is None:
        raise ValueError(f"prompts need a backbone with access to the tokens of its {tower} tower (a ViT)")
    depth = depth or size.layers
    if depth > size.layers:
        raise ValueError(f"prompts for {depth} blocks, but the {tower} tower has {size.layers}")
    return 0.02 * torch.randn(depth, length, size.width)


class _Reader(TokenEdit):
    """Keeps the embedded tokens (N, L, D)."""

    embedded: Tensor

    def embed(self, tokens: Tensor) -> Tensor:
        self.embedded = tokens
        return tokens


@torch.no_grad()
def embed_words(backbone: Backbone, words: str) -> Tensor:
    """Embedded tokens (W, D) of words, without those for start and end.

    Raises:
        ValueError: a word that is not one token.
    """
    reader = _Reader()
    backbone.encode_text(backbone.tokenize([words]).to(backbone.device), reader)
    embedded = reader.embedded[0, 1:-1].clone()
    if len(embedded) != len(words.split()):
        raise ValueError(f"words={words!r} are {len(embedded)} tokens; choose words that are one token each")
    return embedded


class Context(nn.Module):
    """Learned tokens in front of a class name, where words would stand, and in front of the text tower's blocks.

    Args:
        backbone: with access to the tokens of its text tower.
        length: P, learned tokens; nothing of the class name gives way to them.
        depth: J, see `random_prompts`.
        words: in whose embeddings the tokens at the input begin; words beyond `length` stay words. None: at random.

    Attributes:
        tokens: (J, P, D), trained.
        template: what follows the tokens: words that are not learned, the class name, a full stop.

    Raises:
        ValueError: fewer words than learned tokens, or what `random_prompts` and `embed_words` refuse.
    """

    def __init__(self, backbone: Backbone, *, length: int, depth: int | None = 1, words: str | None = None) -> None:
        super().__init__()
        tokens = random_prompts(backbone, "text", length, depth)
        rest = (words or "").split()[length:]
        if words is not None:
            embedded = embed_words(backbone, words)
            if len(embedded) < length:
                raise ValueError(
                    f"{length} learned tokens cannot begin as {len(embedded)} words={words!r}; give as many words, "
                    "or words=null to begin at random"
                )
            tokens = torch.cat([embedded[None, :length], tokens[1:].to(embedded)])
        self.tokens = nn.Parameter(tokens)
        self.template = " ".join([*rest, "{}."])

    def encode(self, backbone: Backbone, texts: Sequence[str], tokens: Tensor | None = None) -> Tensor:
        """Text features (N, E) of length 1 of texts with the tokens, or others (J, P, D) or (J, N, P, D), in front."""
        edit = DeepPrompts(self.tokens if tokens is None else tokens, "replace", "start")
        return backbone.encode_text(backbone.tokenize(texts).to(backbone.device), edit)
