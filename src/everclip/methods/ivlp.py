"""IVLP: independent vision-language prompting, which learns tokens in both towers, in front of some or all blocks.

Trained: those tokens, shared by all sessions (30,720 values at 2 and 2 tokens in front of 12 blocks of ViT-B/16;
`vision_length=0` is deep language prompting). A training picture is compared with the classes of its session; the name
of a new class gets the context that is there.

Family: prompts.
Source: the baseline of arXiv 2210.03117, muzairkhattak/multimodal-prompt-learning @ 69bce21
(`trainers/independentVL.py`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.families import ContextLearner
from everclip.modules.prompts import Context, DeepPrompts, random_prompts
from everclip.types import Positive


class Ivlp(ContextLearner):
    """Learned tokens of both towers.

    Args:
        backbone: with access to the tokens of both towers.
        text_length: learned tokens of a text.
        text_depth: blocks of the text tower, from the first, that get tokens of their own; None: all.
        vision_length: learned tokens of a picture, 0 for none.
        vision_depth: as `text_depth`, for the image tower.
        words: that the tokens at the input of the text tower begin as, one token each; words beyond `text_length` stay
            words. None: begin at random.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        text_length: Positive = 2,
        text_depth: Positive | None = None,
        vision_length: Annotated[int, Field(ge=0)] = 2,
        vision_depth: Positive | None = None,
        words: str | None = "a photo of a",
    ) -> None:
        super().__init__(backbone, Context(backbone, length=text_length, depth=text_depth, words=words))
        self.frozen_images = not vision_length
        self.prompts: nn.Parameter | None = None
        if vision_length:
            self.prompts = nn.Parameter(random_prompts(backbone, "vision", vision_length, vision_depth))

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        edit = None if self.prompts is None else DeepPrompts(self.prompts, "replace", "end")
        return self.backbone.encode_image(images, edit)
