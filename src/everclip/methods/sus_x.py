"""SuS-X: pictures found by class names vote for classes, by nearness and by what they have in common with the texts.

The support set needs no labels of the target: pictures retrieved by their similarity with a class's text (SuS-LC), or
generated from it and kept in a folder of its name (SuS-SD), both from `reference`. Their votes are Tip-Adapter's and,
as the second part of TIP-X, the divergence between their distributions over the classes and the picture's. Nothing is
trained.

Family: caches.
Source: arXiv 2211.16198, official code vishaal27/SuS-X @ d7d4d37 (tipx.py).
Differs: without a reference set a session's own labelled pictures stand in for the support set (TIP-X with few shots,
in the paper an experiment of its own). Divergences are rescaled to the range of the affinities over the pictures that
the settings were chosen by; in the code over the whole test set (with the validation set's range of affinities), which
makes a picture's logits depend on the others; these are pictures of the first session, whose range later sessions keep.
The code's divergences are zero beyond the last full hundred of pictures.
Choosing, votes of unequal classes and classes without pictures are as in `tip_adapter`; grids are coarser than the
code's, and texts are names in templates without its descriptions by GPT-3.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from everclip.backbones.base import Backbone
from everclip.methods.families import CacheVotes
from everclip.modules.feature_cache import FeatureCache, Setting
from everclip.modules.support_pictures import SupportPictures
from everclip.types import Positive, Reference


class SusX(CacheVotes):
    """Zero-shot CLIP and a cache of support features with two kinds of votes.

    Args:
        backbone: stays frozen.
        reference: where support pictures are found; empty: a session's own pictures stand in.
        per_class: support pictures of a class from the reference set.
        weight: alpha of the paper, of the votes by nearness; a number or a `Grid`.
        sharpness: beta: how fast they fall with the distance.
        kl_weight: gamma, of the votes by divergence.
        temperature: of the distributions over classes.
        views: passes over the support pictures, each as `train.augment` shows them; a key is the mean over them.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        reference: Reference,
        per_class: Positive = 16,
        weight: Setting,
        sharpness: Setting,
        kl_weight: Setting,
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        views: Positive = 10,
    ) -> None:
        settings = {"weight": weight, "sharpness": sharpness, "kl_weight": kl_weight}
        support = SupportPictures(views, reference, per_class)
        found = None if support.reference is None else per_class
        cache = FeatureCache(backbone.embed_dim, settings, temperature=temperature, per_class=found)
        super().__init__(backbone, cache, support)
