"""Tip-Adapter-F: the keys of Tip-Adapter's cache are trained; texts and the classes that keys vote for stay.

A session trains the keys of its own pictures (as many values as pictures times the width of the embedding) by
cross-entropy over its classes, at the settings that grids start with. Keys of earlier sessions stay as they are.

Family: caches.
Source: arXiv 2111.03930, official code gaopengcuhk/Tip-Adapter @ d0e2d6f (main.py, run_tip_adapter_F).
Differs: the code keeps the epoch that is best on the test set; here the last one counts. After it, the code searches
sharpness and weight on validation pictures; without any, the settings trained with are kept, because the trained keys
know the training pictures. Other differences are those of `tip_adapter`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.feature_cache import FeatureCache, Setting
from everclip.modules.support_pictures import SupportPictures
from everclip.types import Batch, ClassSet, Positive, Session


class TipAdapterF(Method):
    """Zero-shot CLIP and a cache of trained keys.

    Args:
        backbone: stays frozen.
        sharpness: beta of the paper: how fast a vote falls with the distance; a number or a `Grid`.
        weight: alpha of the paper, of the votes.
        views: passes over a session's pictures, each as `train.augment` shows them; a key starts as the mean over them.
    """

    frozen_images = True
    frozen_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        sharpness: Setting,
        weight: Setting,
        views: Positive = 10,
    ) -> None:
        super().__init__(backbone)
        self.cache = FeatureCache(backbone.embed_dim, {"sharpness": sharpness, "weight": weight}, trainable=True)
        self.support = SupportPictures(views)

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        text = self.class_features(session.classes)
        found = self.support.find(self.backbone, session, extract, text, self.cache.asks)
        self.earlier = self.cache.keys.detach().clone()
        self.cache.add(found.keys, found.labels)
        self.classes, self.text = session.classes, text

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        support, features = self.cache.support(self.classes, self.text), self.encode_image(batch.images)
        logits = self.cache.logits(features, support, self.backbone.logit_scale)
        return {"cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels))}

    @override
    @torch.no_grad()
    def after_step(self) -> None:
        self.cache.keys[: len(self.earlier)] = self.earlier

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        if session.is_base and session.validation is not None:
            shown, labels = extract(session.validation, self.backbone.encode_image)
            everything = torch.ones_like(self.cache.labels, dtype=torch.bool)
            text, scale = self.class_features(session.classes), self.backbone.logit_scale
            self.cache.choose(session.classes, text, scale, [(everything, shown, labels)])

    @override
    def num_arriving(self, sizes: Sequence[int], images: Sequence[int] = ()) -> int:
        return images[-1] * self.backbone.embed_dim

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        support, scale = self.cache.support(classes, self.class_features(classes)), self.backbone.logit_scale
        return lambda images: self.cache.logits(self.encode_image(images), support, scale)
