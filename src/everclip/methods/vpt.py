"""VPT: visual prompt tuning, which learns tokens beside the patches of a picture, in front of some or all blocks.

Trained: those tokens, shared by all sessions (73,728 values at 8 tokens in front of 12 blocks of ViT-B/16; `depth=1` is
VPT-shallow, 6,144). Texts stay as they are. A training picture is compared with the classes of its session; a new class
is one more text.

Family: prompts.
Source: arXiv 2203.12119; in this form, on CLIP, muzairkhattak/multimodal-prompt-learning @ 69bce21 (`trainers/vpt.py`).
Differs: the original classifies by a linear layer on ImageNet models, and begins with other random tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Extract, Method
from everclip.modules.prompts import DeepPrompts, random_prompts
from everclip.types import Batch, ClassSet, Positive, Session, Template


class Vpt(Method):
    """Learned tokens of the image tower.

    Args:
        backbone: with access to the tokens of its image tower.
        length: learned tokens of a block.
        depth: blocks, from the first, that get tokens of their own; None: all.
        template: of the class names, with one `{}`; None: the sequence's.
    """

    frozen_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        length: Positive = 8,
        depth: Positive | None = None,
        template: Template | None = "a photo of a {}.",
    ) -> None:
        super().__init__(backbone)
        self.template = template
        self.prompts = nn.Parameter(random_prompts(backbone, "vision", length, depth))

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        with torch.no_grad():
            self.text = self.class_features(self.classes)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.backbone.logit_scale * similarity(self.encode_image(batch.images), self.text)
        return {"cross_entropy": nn.functional.cross_entropy(logits, self.classes.columns(batch.labels))}

    @override
    def templates(self, classes: ClassSet) -> tuple[str, ...]:
        return super().templates(classes) if self.template is None else (self.template,)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        return self.backbone.encode_image(images, DeepPrompts(self.prompts, "replace", "end"))
