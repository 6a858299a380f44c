"""ZSCL: the pre-trained model teaches image-text similarities on reference data, and weights are averaged on the way.

All weights but the logit scale are fine-tuned. On unpaired reference pictures and texts from outside the sequence the
model must keep the teacher's distributions in both directions; a penalty holds the weights near those at the start of
the session (weight constraint), and a session ends with the mean of the weights along its path (weight ensemble).
On image-text pairs all that is the same, as the reference data are not the session's.

Family: distillation and weight averaging.
Source: arXiv 2303.06628 (Thunderbeee/ZSCL @ b96e714, mtil/src/models/finetune.py; cil/continual_clip/models.py weights
both distillations with 5 and has no weight constraint).
Differs: reference texts are encoded by the teacher once instead of in every step, and so are the reference pictures
where they are few; the numbers are the same. As in the code, both models are compared with the teacher's text features,
so the student's text tower learns from the session's own loss alone.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.distillation import image_text_distillation, squared_distance
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace, SessionLr, own_lr, unfreeze
from everclip.modules.teacher import Teacher
from everclip.modules.weight_average import WeightAverage
from everclip.types import Batch, Phase, Positive, Reference, Session


class Zscl(TowerTuning):
    """Fine-tuning with distillation on reference data, weight constraint and weight ensemble.

    Args:
        backbone: unfrozen in place.
        reference: what student and teacher are compared on.
        teacher: the `pretrained` model, or the `previous` one, as it was when the session began.
        image_weight: of the distillation over texts, per picture.
        text_weight: of the distillation over pictures, per text.
        temperature: of both.
        constraint_weight: of the squared distance to the weights at the start of the session.
        average_every: steps between two snapshots of the weight ensemble, None for none.
        max_cached_images: up to this many reference pictures are encoded by the teacher once, more in every step.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
        session_lr: see `SessionLr`.

    Raises:
        ValueError: an empty reference set.
    """

    couples_batch = True  # the distillation over pictures is a softmax over the batch

    def __init__(
        self,
        backbone: Backbone,
        *,
        reference: Reference,
        teacher: Literal["pretrained", "previous"] = "pretrained",
        image_weight: Annotated[float, Field(ge=0)] = 1.0,
        text_weight: Annotated[float, Field(ge=0)] = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 2.0,
        constraint_weight: Annotated[float, Field(ge=0)] = 1.0,
        average_every: Positive | None = 10,
        max_cached_images: Annotated[int, Field(ge=0)] = 20_000,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        session_lr: SessionLr | None = None,
    ) -> None:
        super().__init__(backbone, label_space, label_smoothing)
        if not len(reference.images):
            raise ValueError("reference=none has nothing to compare models on; use reference=shapes, folder or cc")
        self.teacher = Teacher(backbone)
        self.tuned = unfreeze(backbone)
        self.reference = reference
        self.follows = teacher == "previous"
        self.distil = partial(
            image_text_distillation, temperature=temperature, image_weight=image_weight, text_weight=text_weight
        )
        self.constraint_weight = constraint_weight
        self.average = WeightAverage(average_every) if average_every else None
        self.few_images = len(reference.images) <= max_cached_images
        self.session_lr = session_lr
        self.texts = torch.empty(0)

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        super().begin_session(session, extract)
        self.anchors = [parameter.detach().clone() for parameter in self.tuned]
        if self.average is not None:
            self.average.start(self.tuned)
        if self.follows:
            self.teacher = Teacher(self.backbone)
        if self.follows or len(self.texts) == 0:
            self.teacher.to(self.backbone.device)
            self.texts = self.teacher.encode_text(self.reference.texts)
            encode = self.teacher.encode_image
            self.known = frozen_features(encode, self.reference.images, extract, keep=self.few_images)

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        lr = own_lr(session, self.session_lr)
        return (Phase(auxiliary=self.reference.images, augment_auxiliary=False, lr=lr),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        shown = batch.auxiliary
        assert shown is not None  # `phases` asks for it
        student, teacher = self.encode_image(shown.images), self.known(shown)
        losses = super().loss(batch)
        losses |= self.distil(student, teacher, self.texts, scale=self.backbone.logit_scale, indices=shown.indices)
        if self.constraint_weight:
            losses["weight_constraint"] = self.constraint_weight * squared_distance(self.tuned, self.anchors)
        return losses

    @override
    def after_step(self) -> None:
        if self.average is not None:
            self.average.after_step(self.tuned)

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        if self.average is not None:
            self.average.finish(self.tuned)
