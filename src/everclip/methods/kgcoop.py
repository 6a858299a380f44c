"""KgCoOp: knowledge-guided context optimisation, a learned context whose text features stay near those of plain texts.

Trained: the tokens in front of a class name, shared by all classes and sessions (2,048 values at 4 tokens on ViT-B/16).
A training picture is compared with the classes of its session, whose text features are held near those that the frozen
tower gives for the sequence's templates. The name of a new class gets the context that is there.

Family: prompts.
Source: arXiv 2303.13283, official code htyao89/KgCoOp @ c43ccc3 (`KgCoOp/trainers/kgcoop.py`).
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Extract, Method
from everclip.methods.families import ContextLearner
from everclip.modules.prompts import Context
from everclip.types import Batch, Positive, Session


class Kgcoop(ContextLearner):
    """Learned context beside what the frozen texts say.

    Args:
        backbone: with access to the tokens of its text tower; stays frozen.
        length: learned tokens.
        words: that they begin as, one token each; words beyond `length` stay words. None: begin at random.
        knowledge_weight: of 1 minus the mean cosine between a class's text feature and the frozen one.
    """

    frozen_images = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        length: Positive = 4,
        words: str | None = "a photo of a",
        knowledge_weight: Annotated[float, Field(ge=0)] = 8.0,
    ) -> None:
        super().__init__(backbone, Context(backbone, length=length, words=words))
        self.knowledge_weight = knowledge_weight

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        with torch.no_grad():
            self.knowledge = Method(self.backbone).class_features(self.classes)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        text = self.class_features(self.classes)
        logits = self.backbone.logit_scale * similarity(self.encode_image(batch.images), text)
        return {
            "cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels)),
            "knowledge": self.knowledge_weight * (1 - (text * self.knowledge).sum(dim=1).mean()),
        }
