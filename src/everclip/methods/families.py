"""What methods of one family have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.feature_cache import FeatureCache
from everclip.modules.fine_tuning import LabelSpace, compared, first_template
from everclip.modules.prompts import Context
from everclip.modules.support_pictures import SupportPictures
from everclip.objectives.classification import Classification
from everclip.types import Batch, ClassSet, Phase, Session


class TowerTuning(Method):
    """A method that trains some weights of the towers on whatever a session's objective asks for.

    Sessions go on with the same weights. In training a class is read by the first of its templates.

    Args:
        backbone: with the trained weights in it.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
        parts: those of the weights that `reset` draws before the base session.
    """

    any_objective = True

    def __init__(
        self, backbone: Backbone, label_space: LabelSpace, label_smoothing: float, parts: Sequence[Any] = ()
    ) -> None:
        super().__init__(backbone)
        self.label_space = label_space
        self.label_smoothing = label_smoothing
        self.parts = tuple(parts)  # a tuple: they are in the backbone, and in the state only once

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.objective = session.objective or Classification()
        self.classes = first_template(compared(session, self.label_space))
        if session.is_base:
            for part in self.parts:
                part.reset()

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.loss(self, batch, self.classes, self.label_smoothing)


class ContextLearner(Method):
    """A method that learns tokens in front of class names.

    All classes and sessions share them: the name of a new class gets what is there. A training picture is compared with
    the classes of its session.

    Args:
        backbone: with access to the tokens of its text tower.
        context: the tokens.
    """

    def __init__(self, backbone: Backbone, context: Context) -> None:
        super().__init__(backbone)
        self.context = context

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": self.cross_entropy(batch, self.classes)}

    @override
    def templates(self, classes: ClassSet) -> tuple[str, ...]:
        return (self.context.template,)

    @override
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return self.context.encode(self.backbone, texts)


class CacheVotes(Method):
    """Zero-shot CLIP and the votes of a cache, which every session adds its keys to; nothing is trained.

    Args:
        backbone: stays frozen.
        cache: of keys; its settings are chosen on the first session.
        support: finds the keys.
    """

    frozen_images = True
    frozen_texts = True

    def __init__(self, backbone: Backbone, cache: FeatureCache, support: SupportPictures) -> None:
        super().__init__(backbone)
        self.cache = cache
        self.support = support

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return ()

    def captions(self, session: Session, labels: Tensor, text: Tensor) -> Tensor | None:
        """Caption features (M, E) of keys of classes (M,), whose texts are (C, E); None: keys have none."""
        return None

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        text = self.class_features(session.classes)
        found = self.support.find(self.backbone, session, extract, text, self.cache.asks)
        self.cache.add(found.keys, found.labels, self.captions(session, found.labels, text))
        if session.is_base:
            self.cache.choose(session.classes, text, self.backbone.logit_scale, found.judges)

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        support, scale = self.cache.support(classes, self.class_features(classes)), self.backbone.logit_scale
        return lambda images: self.cache.logits(self.encode_image(images), support, scale)
