"""CapS-Adapter: a cache whose keys are support pictures together with their captions.

A picture's affinity to a key is a mean of that to the key's picture and that to its caption; the votes are those of
SuS-X. Nothing is trained.

Family: caches.
Source: arXiv 2405.16591, official code WLuLi/CapS-Adapter @ bb2182a (madapter.py).
Differs: captions are those of the session's pictures where it has any, else the `class_texts` of their classes in turn;
without either the class's text stands in for a caption of every key, and a message says so. The code captions pictures
of the target and generates others from the captions, after the name in a sentence, as is done with `class_texts` here;
a folder of such pictures is a `reference` (its few-shot captions name the first class for all). Distributions are over
the classes, as in the paper; the code takes the softmax of the features themselves. Its divergences are zero beyond the
last full ten of pictures. The rest is as in `sus_x`.
"""

from __future__ import annotations

import logging
from itertools import cycle
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.families import CacheVotes
from everclip.modules.feature_cache import FeatureCache, Setting
from everclip.modules.support_pictures import SupportPictures
from everclip.types import ClassTexts, Positive, Reference, Session

log = logging.getLogger("everclip")


class CapsAdapter(CacheVotes):
    """Zero-shot CLIP and a cache of support features and caption features.

    Args:
        backbone: stays frozen.
        reference: where support pictures are found; empty: a session's own pictures stand in.
        class_texts: captions of a class, for pictures without any.
        per_class: support pictures of a class from the reference set.
        weight: alpha of the paper, of the votes by nearness; a number or a `Grid`.
        sharpness: beta: how fast they fall with the distance.
        caption_share: delta: of the captions in an affinity; 0 is SuS-X.
        kl_weight: gamma, of the votes by divergence; 0 is the paper's simplified form.
        temperature: of the distributions over classes.
        views: passes over the support pictures, each as `train.augment` shows them; a key is the mean over them.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        reference: Reference,
        class_texts: ClassTexts,
        per_class: Positive = 16,
        weight: Setting,
        sharpness: Setting,
        caption_share: Setting,
        kl_weight: Setting,
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        views: Positive = 10,
    ) -> None:
        settings = {
            "weight": weight, "sharpness": sharpness, "caption_share": caption_share, "kl_weight": kl_weight
        }  # fmt: skip
        support = SupportPictures(views, reference, per_class)
        found = None if support.reference is None else per_class
        cache = FeatureCache(backbone.embed_dim, settings, temperature=temperature, per_class=found)
        super().__init__(backbone, cache, support)
        self.class_texts = class_texts

    @override
    def captions(self, session: Session, labels: Tensor, text: Tensor) -> Tensor:
        classes = session.classes
        columns = classes.columns(labels).tolist()
        if self.support.reference is None and session.train.texts:
            captions = [own[0] for own in session.train.texts]
        elif self.class_texts.texts:
            given = [cycle(own) for own in self.class_texts.of(classes)]
            captions = [next(given[column]) for column in columns]
        else:
            if session.is_base:
                log.warning("no captions (class_texts=none): the text of a class stands in for those of its keys")
            return text[columns]
        alone = [classes.select([column]) for column in range(len(classes))]
        prompts = [one.prompts(one.templates[0])[0] for one in alone]  # the caption follows the name
        whole = [f"{prompts[column]} {caption}" for column, caption in zip(columns, captions, strict=True)]
        different = list(dict.fromkeys(whole))
        rows = torch.cat([self.encode_text(different[i : i + 256]) for i in range(0, len(different), 256)])
        position = {caption: row for row, caption in enumerate(different)}
        return rows[[position[caption] for caption in whole]]
