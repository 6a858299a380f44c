"""PRE: prompt learning with a reparameterisation encoder, a learned context that passes a small network first.

The tokens in front of a class name are learned ones plus what a bidirectional LSTM makes of them. Trained: tokens and
LSTM, shared by all classes and sessions (1,579,008 values at 4 tokens on ViT-B/16). A training picture is compared with
the classes of its session; the name of a new class gets the context that is there.

Family: prompts.
Source: arXiv 2309.07760, official code minhanh151/PRE @ 08be701 (`trainers/pre.py`, `scripts/base2new_train.sh`).
Differs: of the encoders that the paper compares, this is the one that it settles on.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.families import ContextLearner
from everclip.modules.prompts import Context
from everclip.types import Positive


class Pre(ContextLearner):
    """Learned context behind an encoder.

    Args:
        backbone: with access to the tokens of its text tower; stays frozen.
        length: learned tokens.
        words: that they begin as, one token each; words beyond `length` stay words. None: begin at random.
    """

    frozen_images = True

    def __init__(self, backbone: Backbone, *, length: Positive = 4, words: str | None = "a photo of a") -> None:
        super().__init__(backbone, Context(backbone, length=length, words=words))
        width = self.context.tokens.shape[2]
        self.encoder = nn.LSTM(width, width // 2, bidirectional=True, batch_first=True)

    def tokens(self) -> Tensor:
        """The tokens (1, P, D) that stand in front of a class name."""
        return self.context.tokens + self.encoder(self.context.tokens)[0]

    @override
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return self.context.encode(self.backbone, texts, self.tokens())
