"""ViFi-CLIP: CLIP on the mean of frame features is fine-tuned, or learns tokens in both towers with all else frozen.

Trained: both towers but the token embedding, and the logit scale (124,323,841 values on ViT-B/16), or one tower alone,
by cross-entropy among the texts of all classes on mixed clips; or `trains=prompts`: tokens in front of the first blocks
(184,320 values). For little data the paper does both in turn: `backbone=from_run` takes what a run that tuned weights
has left to the run that learns tokens.

Family: video.
Source: arXiv 2212.03640, official code muzairkhattak/ViFi-CLIP @ e2d1948 (trainers/vificlip.py, datasets/blending.py).
Differs: pictures are normalised as the backbone wants them, where the code uses the mean and deviation of ImageNet, and
are cut out as `train.augment` says, without changes of colour. The warm-up goes in whole epochs. Up to four tokens of
texts begin as words in the code, more of them at random as all do here. The best epoch on the test clips is not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import LabelSpace, compared, first_template
from everclip.modules.mixing import Mixing
from everclip.modules.prompts import Context, DeepPrompts, random_prompts
from everclip.modules.tower_blocks import Towers, unfreeze_matching
from everclip.types import Batch, ClassSet, Positive, Session

TUNED = r"(?!(.*\.)?token_embedding\.).*"  # weights; no token that a class is written in is ever trained


class VifiClip(Method):
    """Towers that are tuned for clips, or tokens learned in both.

    Args:
        backbone: unfrozen in place, or with access to the tokens of both towers.
        trains: `both` towers and the logit scale, one of them alone, or `prompts`.
        prompt_length: learned tokens of a picture, and of a text.
        prompt_depth: blocks of both towers, from the first, that get tokens of their own; None: all.
        mixup: see `Mixing`.
        cutmix: see `Mixing`.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        trains: Towers | Literal["prompts"] = "both",
        prompt_length: Positive = 16,
        prompt_depth: Positive | None = 9,
        mixup: Annotated[float, Field(ge=0)] = 0.8,
        cutmix: Annotated[float, Field(ge=0)] = 1.0,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ) -> None:
        super().__init__(backbone)
        self.mixing = Mixing(mixup, cutmix)
        self.couples_batch = self.mixing.acts
        self.label_space, self.label_smoothing = label_space, label_smoothing
        self.context: Context | None = None
        if trains == "prompts":
            self.context = Context(backbone, length=prompt_length, depth=prompt_depth)
            self.prompts = nn.Parameter(random_prompts(backbone, "vision", prompt_length, prompt_depth))
            return
        unfreeze_matching(backbone, trains, TUNED)
        for name, weight in backbone.named_parameters():
            if name.endswith("logit_scale"):
                weight.requires_grad_(trains == "both")
        self.frozen_images, self.frozen_texts = trains == "text" and not self.mixing.acts, trains == "vision"

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = compared(session, self.label_space)
        if self.context is None:
            self.classes = first_template(self.classes)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        own = F.one_hot(self.classes.columns(batch.labels), len(self.classes)).to(batch.images.dtype)
        images, target = self.mixing(batch.images, own)
        logits = self.logits(images, self.classes)
        return {"cross_entropy": F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)}

    @override
    def templates(self, classes: ClassSet) -> tuple[str, ...]:
        return super().templates(classes) if self.context is None else (self.context.template,)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        edit = None if self.context is None else DeepPrompts(self.prompts, "replace", "end")
        return self.backbone.encode_image(images, edit)

    @override
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return super().encode_text(texts) if self.context is None else self.context.encode(self.backbone, texts)

    @override
    def outside_towers(self) -> tuple[str, ...]:
        return () if self.context is None else super().outside_towers()
