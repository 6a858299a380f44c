"""Learning without forgetting for CLIP: the model before the session teaches similarities to the session's own classes.

All weights but the logit scale are fine-tuned; on pictures of the session, the distributions over its class texts (and
over the pictures, per text) must stay those of the model as it was when the session began. Image-text pairs have no
class texts: there the captions of a batch take their place, each model reading them by itself.

Family: distillation and weight averaging.
Source: arXiv 1606.09282; in this form the "LwF" baseline of arXiv 2303.06628 (Thunderbeee/ZSCL @ b96e714,
mtil/scripts/lwf.sh).
Differs: the session's class texts are encoded by the teacher once, not in every step; the numbers are the same. On
pairs the text tower is held too; with the teacher's texts for both models, as on classes, nothing would hold it.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.distillation import image_text_distillation
from everclip.losses.global_batch import global_rows
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace, SessionLr, own_lr, unfreeze
from everclip.modules.teacher import Teacher
from everclip.types import Batch, Phase, Session


class Lwf(TowerTuning):
    """Fine-tuning with the previous model as teacher on the session's own pictures and texts.

    Args:
        backbone: unfrozen in place.
        image_weight: of the distillation over texts, per picture.
        text_weight: of the distillation over pictures, per text.
        temperature: of both.
        label_space: see `LabelSpace`; the teacher reads the texts of these classes too.
        label_smoothing: share of the target spread over all classes.
        session_lr: see `SessionLr`.
    """

    couples_batch = True  # the distillation over pictures is a softmax over the batch

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_weight: Annotated[float, Field(ge=0)] = 1.0,
        text_weight: Annotated[float, Field(ge=0)] = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 2.0,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        session_lr: SessionLr | None = None,
    ) -> None:
        super().__init__(backbone, label_space, label_smoothing)
        unfreeze(backbone)
        self.distil = partial(
            image_text_distillation, temperature=temperature, image_weight=image_weight, text_weight=text_weight
        )
        self.session_lr = session_lr

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        super().begin_session(session, extract)
        self.teacher = Teacher(self.backbone)
        self.known = frozen_features(self.teacher.encode_image, session.train, extract, keep=session.repeats > 1)
        groups = [group for _, group in self.classes.by_templates()]
        texts = [text for group in groups for text in group.prompts(group.templates[0])]
        self.texts = self.teacher.encode_text(texts) if texts else torch.empty(0)

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        lr = own_lr(session, self.session_lr)
        return (Phase(auxiliary=session.train, augment_auxiliary=False, lr=lr),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        shown = batch.auxiliary
        assert shown is not None  # `phases` asks for it
        student, teacher = self.encode_image(shown.images), self.known(shown)
        texts = known_texts = self.texts
        if shown.texts is not None:
            own, known = self.encode_text(shown.texts), self.teacher.encode_text(shown.texts)
            texts, known_texts = global_rows(shown.indices, own, known)
        kept = self.distil(student, teacher, texts, known_texts, scale=self.backbone.logit_scale, indices=shown.indices)
        return super().loss(batch) | kept
