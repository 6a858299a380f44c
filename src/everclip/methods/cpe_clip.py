"""CPE-CLIP: few prompts shared by both towers and by all sessions, for few-shot class-incremental learning.

One tensor of deep prompts is inserted into the text tower; a single linear layer maps it to the prompts of the image
tower. Trained: that tensor and that layer (406,272 values on ViT-B/16). Old classes are protected by comparing a
training picture with the session's own classes only, and by scaling the gradient by the session's / seen classes.

Family: prompts.
Source: arXiv 2303.04751, official code neuraptic/cpe-clip @ 9309631 (`CoLeLib/models/clip_models.py`,
`CoLeLib/training/strategies/clip_pe.py`).
Differs: old classes do not pass the text tower in training; the code sets their logits to -9999, where their gradient
is zero, so loss and gradients are the same (`exact_naive` does as the code does). `prompt_depth` follows the backbone's
depth instead of a fixed 12. The code's `freeze` regulariser, unused in the paper, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.prompts import DeepPrompts, PromptMode
from everclip.types import Batch, ClassSet, Positive, Session, Template


class CpeClip(Method):
    """Shared multimodal prompts.

    Args:
        backbone: with access to the tokens of both towers.
        prompt_length: P, prompt tokens per block.
        prompt_depth: blocks that get prompts of their own, None for every block of the text tower.
        text_mode: how the text prompts go through the depth, see `DeepPrompts`.
        vision_mode: the same for the image tower.
        vision_prompts: False leaves the image tower as it is (the ablation `no_vision_prompts`).
        regularizer: `balance` scales the gradient by the session's / seen classes from session 1 on; `none` does not.
        template: of the class names, with one `{}`.
        logit_scale: factor of the cosine similarities, None for the backbone's own.
        exact_naive: computes the same figures in the official code's way, to compare time and memory with: all seen
            classes pass the text tower in every step, the projection maps one copy of the prompts per picture, and
            attention is materialised (`Backbone.naive`).

    Raises:
        ValueError: more prompt blocks than the text tower has, or a backbone without access to its tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        prompt_length: Positive = 2,
        prompt_depth: Positive | None = None,
        text_mode: PromptMode = "replace",
        vision_mode: PromptMode = "accumulate",
        vision_prompts: bool = True,
        regularizer: Literal["balance", "none"] = "balance",
        template: Template = "{}.",
        logit_scale: Annotated[float, Field(gt=0)] | None = None,
        exact_naive: bool = False,
    ) -> None:
        super().__init__(backbone)
        if backbone.text is None or backbone.vision is None:
            raise ValueError("cpe_clip needs a backbone with access to the tokens of both towers (a ViT)")
        depth = prompt_depth or backbone.text.layers
        if depth > backbone.text.layers:
            raise ValueError(f"prompt_depth={depth}, but the text tower has {backbone.text.layers} blocks")
        width = backbone.text.width
        self.text_mode: PromptMode = text_mode
        self.vision_mode: PromptMode = vision_mode
        self.regularizer = regularizer
        self.template = template
        self.scale = logit_scale
        self.exact_naive = backbone.naive = exact_naive
        self.projection = nn.Linear(width, backbone.vision.width) if vision_prompts else None
        self.prompts = nn.Parameter(torch.empty(depth, prompt_length, width))
        nn.init.xavier_uniform_(self.prompts)
        self.trained = [self.prompts, *(self.projection.parameters() if self.projection is not None else ())]
        self.balance = 1.0

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes, self.seen = session.classes, session.seen
        balanced = self.regularizer == "balance" and not session.is_base
        self.balance = len(session.classes) / len(session.seen) if balanced else 1.0

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if self.exact_naive:
            return {"cross_entropy": self.masked_cross_entropy(batch)}
        return {"cross_entropy": self.cross_entropy(batch, self.classes)}

    def masked_cross_entropy(self, batch: Batch) -> Tensor:
        """Cross-entropy (scalar) among all seen classes, with the logits of those outside the session set to -9999."""
        logits = self.logits(batch.images, self.seen)
        logits[:, [class_id not in self.classes.ids for class_id in self.seen.ids]] = -9999
        return F.cross_entropy(logits, self.seen.columns(batch.labels))

    @override
    def before_step(self) -> None:
        # On the gradient, not on the loss: the optimiser's weight decay must stay outside the factor.
        if self.balance != 1:
            for parameter in self.trained:
                if parameter.grad is not None:
                    parameter.grad *= self.balance

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        if self.projection is None:
            return self.backbone.encode_image(images)
        prompts = self.prompts[:, None].repeat(1, len(images), 1, 1) if self.exact_naive else self.prompts
        return self.backbone.encode_image(images, DeepPrompts(self.projection(prompts), self.vision_mode, "end"))

    @override
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        tokens = self.backbone.tokenize(texts).to(self.backbone.device)
        return self.backbone.encode_text(tokens, DeepPrompts(self.prompts, self.text_mode, "start"))

    @override
    def templates(self, classes: ClassSet) -> tuple[str, ...]:
        return (self.template,)

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        text = self.class_features(classes)
        scale = self.backbone.logit_scale if self.scale is None else self.scale
        return lambda images: scale * similarity(self.encode_image(images), text)
