"""MaPLe: multi-modal prompt learning, where the tokens of the image tower are linear maps of those of the text tower.

Trained: the tokens of a text in front of some blocks, and one map for each of these blocks, shared by all sessions
(3,555,072 values at 2 tokens in front of 9 blocks of ViT-B/16). A training picture is compared with the classes of its
session; the name of a new class gets the context that is there.

Family: prompts.
Source: arXiv 2210.03117, official code muzairkhattak/multimodal-prompt-learning @ 69bce21 (`trainers/maple.py`).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.families import ContextLearner
from everclip.modules.prompts import Context, DeepPrompts
from everclip.types import Positive


class Maple(ContextLearner):
    """Coupled tokens of both towers.

    Args:
        backbone: with access to the tokens of both towers.
        length: learned tokens of a text, and as many of a picture.
        depth: blocks of both towers, from the first, that get tokens of their own.
        words: that the tokens at the input of the text tower begin as, one token each; words beyond `length` stay
            words. None: begin at random.

    Raises:
        ValueError: fewer blocks in a tower.
    """

    def __init__(
        self, backbone: Backbone, *, length: Positive = 2, depth: Positive = 9, words: str | None = "a photo of a"
    ) -> None:
        super().__init__(backbone, Context(backbone, length=length, depth=depth, words=words))
        if backbone.vision is None or backbone.vision.layers < depth:
            raise ValueError(f"depth={depth} needs an image tower of as many blocks with access to its tokens (a ViT)")
        first, deeper = (nn.Linear(self.context.tokens.shape[2], backbone.vision.width) for _ in range(2))
        self.maps = nn.ModuleList([first, *(deepcopy(deeper) for _ in range(depth - 1))])  # the code's start

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        mapped = [linear(tokens) for linear, tokens in zip(self.maps, self.context.tokens, strict=True)]
        return self.backbone.encode_image(images, DeepPrompts(torch.stack(mapped), "replace", "end"))
