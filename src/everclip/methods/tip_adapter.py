"""Tip-Adapter: the features of training pictures vote for their classes beside zero-shot CLIP; nothing is trained.

A picture is compared with all that were seen in training; how much the votes count and how near a picture has to be is
chosen once, on the first session. New classes bring their own keys, so nothing is forgotten.

Family: caches.
Source: arXiv 2111.03930, official code gaopengcuhk/Tip-Adapter @ d0e2d6f (main.py, utils.py).
Differs: the code searches sharpness and weight on a labelled validation set of all classes, for ImageNet on the test
pictures (main_imagenet.py); without validation pictures they are cross-validated here on the first session's. Every
class has the same say however many keys it has (see `everclip.modules.feature_cache`), as in the code where all have as
many. A class without pictures has the votes of the one that zero-shot CLIP prefers among the others, where the code has
none.
"""

from __future__ import annotations

from everclip.backbones.base import Backbone
from everclip.methods.families import CacheVotes
from everclip.modules.feature_cache import FeatureCache, Setting
from everclip.modules.support_pictures import SupportPictures
from everclip.types import Positive


class TipAdapter(CacheVotes):
    """Zero-shot CLIP and a cache of training features.

    Args:
        backbone: stays frozen.
        sharpness: beta of the paper: how fast a vote falls with the distance; a number or a `Grid`.
        weight: alpha of the paper, of the votes.
        views: passes over a session's pictures, each as `train.augment` shows them; a key is the mean over them.
    """

    def __init__(self, backbone: Backbone, *, sharpness: Setting, weight: Setting, views: Positive = 10) -> None:
        cache = FeatureCache(backbone.embed_dim, {"sharpness": sharpness, "weight": weight})
        super().__init__(backbone, cache, SupportPictures(views))
