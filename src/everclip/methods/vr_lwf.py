"""VR-LwF: learning without forgetting for CLIP with replayed vocabulary, sentences of random tokens as the texts.

All weights but the logit scale are fine-tuned; on pictures of the session, the distributions over random sentences (and
over the pictures, per sentence) must stay those of the model as it was when the session began. No old data is needed,
and no classes: on image-text pairs it is the same.

Family: distillation and weight averaging.
Source: arXiv 2207.09248, whose code was not released; followed is the "LwF-VR" baseline of arXiv 2303.06628
(Thunderbeee/ZSCL @ b96e714, mtil/scripts/lwf_vr.sh, `virtual_vocab`).
Differs: the two special tokens are never drawn, as an end of text in the middle would cut a sentence short; sentences
are encoded by the teacher once per session, not in every step, which gives the same numbers.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.errors import ConfigError
from everclip.losses.distillation import image_text_distillation
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace, SessionLr, own_lr, unfreeze
from everclip.modules.teacher import Teacher
from everclip.types import Batch, Phase, Positive, Session


class VrLwf(TowerTuning):
    """Fine-tuning with the previous model as teacher on the session's own pictures and random sentences.

    Args:
        backbone: unfrozen in place.
        image_weight: of the distillation over texts, per picture.
        text_weight: of the distillation over pictures, per text.
        temperature: of both.
        num_sentences: drawn anew for every session.
        sentence_length: tokens of each, between start and end of text.
        label_space: see `LabelSpace`.
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
        num_sentences: Positive = 1000,
        sentence_length: Positive = 10,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        session_lr: SessionLr | None = None,
    ) -> None:
        super().__init__(backbone, label_space, label_smoothing)
        random_sentences(backbone, 1, sentence_length)
        unfreeze(backbone)
        self.distil = partial(
            image_text_distillation, temperature=temperature, image_weight=image_weight, text_weight=text_weight
        )
        self.num_sentences = num_sentences
        self.sentence_length = sentence_length
        self.session_lr = session_lr

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        super().begin_session(session, extract)
        teacher = Teacher(self.backbone)
        sentences = random_sentences(self.backbone, self.num_sentences, self.sentence_length)
        self.texts = teacher.encode_tokens(sentences)
        self.known = frozen_features(teacher.encode_image, session.train, extract, keep=session.repeats > 1)

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        lr = own_lr(session, self.session_lr)
        return (Phase(auxiliary=session.train, augment_auxiliary=False, lr=lr),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        shown = batch.auxiliary
        assert shown is not None  # `phases` asks for it
        student, teacher = self.encode_image(shown.images), self.known(shown)
        kept = self.distil(student, teacher, self.texts, scale=self.backbone.logit_scale, indices=shown.indices)
        return super().loss(batch) | kept


def random_sentences(backbone: Backbone, count: int, length: int) -> Tensor:
    """Token ids (count, length + 2): `length` ids drawn from the vocabulary between start and end of text.

    Raises:
        ConfigError: the backbone's tokenizer is not CLIP's, whose last two ids are start and end of text.
    """
    word = backbone.tokenize(["a"])[0].tolist()
    start, end = word[0], max(word)
    if len(word) != 3 or word[2] != end or start != end - 1:
        raise ConfigError("vr_lwf draws from the vocabulary of CLIP's tokenizer, which this backbone does not have")
    bounds = [torch.full((count, 1), bound) for bound in (start, end)]
    return torch.cat([bounds[0], torch.randint(start, (count, length)), bounds[1]], dim=1)
