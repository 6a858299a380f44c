"""PromptSRC: prompting with self-regulating constraints, tokens of both towers that are held near the frozen model.

Trained: tokens in front of some blocks of both towers, shared by all sessions (46,080 values at 4 and 4 tokens in front
of 9 blocks of ViT-B/16). Features of pictures, of the session's classes, and the logits between them are pulled towards
the frozen model's, whose texts are a mean over many templates; after a session the tokens are a weighted mean of those
after each epoch. A training picture is compared with the classes of its session; the name of a new class gets the
context that is there, and the next session begins at the mean.

Family: prompts.
Source: arXiv 2307.06948, official code muzairkhattak/PromptSRC @ bb95c77 (`trainers/promptsrc.py`).
Differs: after an interruption the code's mean lacks the epochs before it.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract
from everclip.methods.families import ContextLearner
from everclip.modules.prompts import Context, DeepPrompts, random_prompts
from everclip.modules.weight_average import EpochAverage
from everclip.types import Batch, ClassSet, Positive, Session

TEMPLATES = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES[:60]]  # of the frozen texts
Weight = Annotated[float, Field(ge=0)]


class Promptsrc(ContextLearner):
    """Learned tokens of both towers, regulated by the frozen model.

    Args:
        backbone: with access to the tokens of both towers.
        text_length: learned tokens of a text.
        text_depth: blocks of the text tower, from the first, that get tokens of their own.
        vision_length: learned tokens of a picture.
        vision_depth: as `text_depth`, for the image tower.
        words: that the tokens at the input of the text tower begin as, one token each; words beyond `text_length` stay
            words. None: begin at random.
        text_weight: of the mean distance, value by value, between text features and frozen ones.
        image_weight: the same of image features.
        logits_weight: of the divergence of the frozen model's probabilities from the prompted one's, over the classes.
        peak: epoch whose tokens count most, see `EpochAverage`.
        spread: of the epochs' weights around it.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        text_length: Positive = 4,
        text_depth: Positive = 9,
        vision_length: Positive = 4,
        vision_depth: Positive = 9,
        words: str | None = "a photo of a",
        text_weight: Weight = 25.0,
        image_weight: Weight = 10.0,
        logits_weight: Weight = 1.0,
        peak: float = 15.0,
        spread: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__(backbone, Context(backbone, length=text_length, depth=text_depth, words=words))
        self.text_weight, self.image_weight, self.logits_weight = text_weight, image_weight, logits_weight
        self.prompts = nn.Parameter(random_prompts(backbone, "vision", vision_length, vision_depth))
        self.average = EpochAverage(peak, spread)

    @property
    def tokens(self) -> tuple[nn.Parameter, ...]:
        """What is trained."""
        return self.context.tokens, self.prompts

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        self.frozen_text = self.read_templates(self.classes)
        self.frozen_image = frozen_features(self.backbone.encode_image, session.train, extract, keep=session.recurs)
        self.average.start(self.tokens)

    @torch.no_grad()
    def read_templates(self, classes: ClassSet) -> Tensor:
        """The frozen model's text features (C, E) of length 1: means over templates, taken before the length is 1."""
        total = torch.zeros((), device=self.backbone.device)
        for template in TEMPLATES:
            words = self.backbone.tokenize(classes.prompts(template)).to(self.backbone.device)
            total = total + self.backbone.encode_text(words, normalize=False)
        return F.normalize(total, dim=1)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        scale, frozen = self.backbone.logit_scale, self.frozen_image(batch)
        text, image = self.class_features(self.classes), self.encode_image(batch.images)
        logits, taught = scale * similarity(image, text), scale * similarity(frozen, self.frozen_text)
        divergence = F.kl_div(logits.log_softmax(dim=1), taught.log_softmax(dim=1), log_target=True, reduction="sum")
        return {
            "cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels)),
            "text": self.text_weight * F.l1_loss(text, self.frozen_text),
            "image": self.image_weight * F.l1_loss(image, frozen),
            "logits": self.logits_weight * divergence / logits.numel(),
        }

    @override
    def after_epoch(self) -> None:
        self.average.after_epoch(self.tokens)

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        self.average.finish(self.tokens)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        return self.backbone.encode_image(images, DeepPrompts(self.prompts, "replace", "end"))
