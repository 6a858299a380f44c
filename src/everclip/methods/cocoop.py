"""CoCoOp: conditional context optimisation, a learned context that a small network shifts by what is in the picture.

Trained: the tokens in front of a class name and the network from image features to a shift of all of them, shared by
all classes and sessions (35,360 values at 4 tokens on ViT-B/16). A training picture is compared with the classes of its
session; the name of a new class gets the context that is there. Every picture has text features of its own, which costs
a text pass per picture and class.

Family: prompts.
Source: arXiv 2203.05557, official code KaiyangZhou/CoOp @ ff61507 (`trainers/cocoop.py`).
Differs: text passes take several pictures at once, and in training of more than fit into one, their values are computed
again for the backward pass. A text that is asked for without a picture gets the context without a shift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Classifier
from everclip.methods.families import ContextLearner
from everclip.modules.prompts import Context, DeepPrompts
from everclip.types import ClassSet, Positive


class Cocoop(ContextLearner):
    """Learned context and its shift.

    Args:
        backbone: with access to the tokens of its text tower; stays frozen.
        length: learned tokens.
        words: that they begin as, one token each; words beyond `length` stay words. None: begin at random.
        reduction: the network's hidden layer is as many times narrower than the image features.
        chunk: texts per pass, at least those of one picture; of memory, not of results.
    """

    frozen_images = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        length: Positive = 4,
        words: str | None = "a photo of a",
        reduction: Positive = 16,
        chunk: Positive = 1024,
    ) -> None:
        super().__init__(backbone, Context(backbone, length=length, words=words))
        self.chunk = chunk
        hidden = backbone.embed_dim // reduction
        self.shift = nn.Sequential(
            nn.Linear(backbone.embed_dim, hidden), nn.ReLU(), nn.Linear(hidden, self.context.tokens.shape[2])
        )

    def cosines(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines (B, C) of pictures with features (B, E) and texts, whose context each picture has shifted."""
        tokens = self.context.tokens + self.shift(features)[:, None]
        words = self.backbone.tokenize(texts).to(self.backbone.device).repeat(len(features), 1)
        text = self.backbone.encode_text(words, DeepPrompts(tokens[None], "replace", "start"))
        return similarity(features[:, None], text.unflatten(0, (len(features), len(texts))))[:, 0]

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        texts = classes.prompts(self.context.template)
        scale, pictures = self.backbone.logit_scale, max(1, self.chunk // len(texts))

        def classify(images: Tensor) -> Tensor:
            parts = self.encode_image(images).split(pictures)
            if len(parts) == 1 or not torch.is_grad_enabled():
                cosines = [self.cosines(part, texts) for part in parts]
            else:
                cosines = [checkpoint(self.cosines, part, texts, use_reentrant=False) for part in parts]
            return scale * torch.cat(cosines)

        return classify
