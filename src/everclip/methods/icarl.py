"""iCaRL: the pictures nearest to their class's mean are kept, the previous model teaches, the nearest mean classifies.

All weights but the logit scale are fine-tuned on the session's pictures together with the kept ones, with cross-entropy
over all classes seen, while the scores of the earlier classes must stay those of the model at the end of the session
before. A picture belongs to the class whose kept pictures have the mean feature most similar to its own.

Family: exemplars.
Source: arXiv 1611.07725 (LAMDA-CL/PyCIL @ f3509b8, models/icarl.py and models/base.py).
Differs: the scores are CLIP's, with text features in the place of the output layer's rows. As in the code, loss and
distillation use a softmax; the paper's sigmoid per class is 1 for every class at CLIP's logits near 25. A class with
fewer pictures than its share keeps all of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.distillation import distillation
from everclip.losses.similarity import similarity
from everclip.memory.exemplars import (
    by_class,
    class_means,
    first_of_each,
    herding_of_each,
    numbers_of,
    random_of_each,
    share,
    with_memory,
)
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Classifier, Extract, Rehearsal
from everclip.modules.class_rows import ClassRows
from everclip.modules.fine_tuning import SessionLr, first_template, own_lr, unfreeze
from everclip.modules.teacher import Teacher
from everclip.types import Batch, ClassSet, Phase, Positive, Session


class Icarl(Rehearsal):
    """Fine-tuning with exemplars, distillation from the previous model, and nearest mean of exemplars.

    Args:
        backbone: unfrozen in place.
        memory_size: pictures kept of all classes together, equally many of each.
        per_class: pictures kept of every class instead, however many classes there are.
        selection: of the pictures of a class: by `herding` or `random`.
        distillation_weight: of the cross-entropy with the teacher's distribution over the earlier classes.
        temperature: of that distribution.
        classify_by: `exemplars`, the nearest mean, or `text`, CLIP's scores that are trained.
        label_smoothing: share of the target spread over all classes.
        session_lr: see `SessionLr`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        memory_size: Positive = 2000,
        per_class: Positive | None = None,
        selection: Literal["herding", "random"] = "herding",
        distillation_weight: Annotated[float, Field(ge=0)] = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 2.0,
        classify_by: Literal["exemplars", "text"] = "exemplars",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        session_lr: SessionLr | None = None,
    ) -> None:
        super().__init__(backbone)
        unfreeze(backbone)
        self.memory_size = memory_size
        self.per_class = per_class
        self.herds = selection == "herding"
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.open_vocabulary = classify_by == "text"
        self.label_smoothing = label_smoothing
        self.session_lr = session_lr
        self.means = ClassRows(backbone.embed_dim, trainable=False)

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = first_template(session.seen)
        self.share = self.per_class or share(self.memory_size, len(session.seen))
        # Here and not at the session's end: a run that goes on inside the session draws the same again.
        self.draws = torch.rand(len(by_class(session)[0]))
        self.earlier = [column for column, c in enumerate(session.seen.ids) if c not in session.classes.ids]
        if self.earlier:
            encode, keep = Teacher(self.backbone).encode_image, session.recurs
            self.known = frozen_features(encode, with_memory(session), extract, keep=keep)
            with torch.no_grad():
                self.texts = self.class_features(self.classes.select(self.earlier))

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return (Phase(data=with_memory(session), lr=own_lr(session, self.session_lr)),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits, target = super().classifier(self.classes)(batch.images), self.classes.columns(batch.labels)
        losses = {"cross_entropy": F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)}
        if self.earlier:
            teacher = self.backbone.logit_scale * similarity(self.known(batch), self.texts)
            # As in the code, without the square of the temperature.
            weight = self.distillation_weight / self.temperature**2
            losses["distillation"] = weight * distillation(logits[:, self.earlier], teacher, self.temperature)
        return losses

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        data, (present, absent) = with_memory(session), by_class(session)
        features, labels = extract(data.subset(present.tolist()), self.encode_image)
        if self.herds:
            new = herding_of_each(features, labels, self.share)
        else:
            new = random_of_each(labels, self.draws.to(labels.device), self.share)
        features, labels, kept = features[new], labels[new], present[new.cpu()]
        if len(absent):
            old = absent[first_of_each(torch.from_numpy(data.labels)[absent], self.share)]
            shown = extract(data.subset(old.tolist()), self.encode_image)
            features, labels = torch.cat([shown[0], features]), torch.cat([shown[1], labels])
            kept = torch.cat([old, kept])
        self.numbers = numbers_of(session, self.numbers)[kept]
        self.means.replace(
            session.seen, class_means(features, labels, torch.tensor(session.seen.ids).to(labels.device))
        )

    @override
    def outside_towers(self) -> tuple[str, ...]:
        return () if self.open_vocabulary else super().outside_towers()

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        if self.open_vocabulary:
            return super().classifier(classes)
        means = self.means.of(classes)
        return lambda images: self.backbone.logit_scale * similarity(self.encode_image(images), means)
