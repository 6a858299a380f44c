"""Mod-X: the model before the session teaches how similar the pictures and texts of a batch are, each with all others.

All weights are trained by CLIP's loss. The distribution of every picture over the texts of the batch, and of every text
over its pictures, is pulled to the previous model's, wherever that ranks the right pair first.

Family: distillation and weight averaging.
Source: arXiv 2305.07437; official code ZixuanNi/Mod-X @ a6a2f6c (ModX_Training/continue_train_model.py).
Differs: made for image-text pairs; on class sequences the texts are those of the session's classes, and a text with
several pictures in the batch may find any of them. A limit of 100 for the logit scale is 4.60517 for its logarithm,
there 4.6052. Rows of which the teacher is wrong are left out; the code gives them the student's own values as a target,
which is the same. The warm-up is a fifth of the steps there.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.matching import alignment, matching
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract, Method
from everclip.modules.pairing import pairing
from everclip.modules.teacher import Teacher
from everclip.types import Batch, Session


class ModX(Method):
    """Fine-tuning with alignment to the previous model's similarities.

    Args:
        backbone: unfrozen in place.
        alignment_weight: alpha, of the divergence, which is a sum over the batch.
        temperature: that cosine similarities are divided by in the divergence.
        max_logit_scale: limit of the trained factor of similarities, which is at least 1.
    """

    learns_pairs = True
    couples_batch = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        alignment_weight: Annotated[float, Field(ge=0)] = 20.0,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        max_logit_scale: Annotated[float, Field(ge=1)] = 100.0,
    ) -> None:
        super().__init__(backbone)
        backbone.requires_grad_(True)
        self.scales = [p for name, p in backbone.named_parameters() if name.rpartition(".")[2] == "logit_scale"]
        self.alignment_weight = alignment_weight
        self.temperature = temperature
        self.max_logit_scale = max_logit_scale

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        if self.alignment_weight:
            self.teacher = Teacher(self.backbone)
            self.known = frozen_features(self.teacher.encode_image, session.train, extract, keep=session.recurs)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        new = pairing(batch, self.classes, self.encode_image, self.encode_text)
        similar = similarity(new.pictures, new.texts)
        losses = {"contrastive": matching(self.backbone.logit_scale * similar, new.own)}
        if self.alignment_weight:
            old = pairing(batch, self.classes, lambda _: self.known(batch), self.teacher.encode_text)
            known = similarity(old.pictures, old.texts)
            aligned = alignment(similar / self.temperature, known / self.temperature, new.own)
            losses["alignment"] = self.alignment_weight * aligned
        return losses

    @override
    @torch.no_grad()
    def after_step(self) -> None:
        for scale in self.scales:
            scale.clamp_(0, math.log(self.max_logit_scale))
