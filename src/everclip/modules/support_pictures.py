"""Pictures whose features are the keys of a cache: a session's own, or those of a reference set nearest to a class.

Source: arXiv 2111.03930 (gaopengcuhk/Tip-Adapter @ d0e2d6f, utils.py), arXiv 2211.16198 (vishaal27/SuS-X @ d7d4d37,
encode_sus_sd.py, retrieve_urls_lc_sus.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.base import Backbone
from everclip.modules.feature_cache import Fold
from everclip.modules.held_out import held_out
from everclip.types import Reference, Samples, Session

Extract = Any  # `everclip.methods.base.Extract`, which modules do not know


class Found(NamedTuple):
    """Keys (M, E) of length 1, their classes (M,), and what to judge the settings of their votes by."""

    keys: Tensor
    labels: Tensor
    judges: Iterable[Fold]


class SupportPictures:
    """Finds the keys of a session's classes.

    Args:
        views: passes over the pictures, each as `train.augment` shows them; a key is the mean over them.
        reference: pictures from outside the sequence; None or empty: the session's training pictures are the keys.
        per_class: keys of a class from the reference set.
    """

    def __init__(self, views: int, reference: Reference | None = None, per_class: int = 1) -> None:
        self.views, self.per_class = views, per_class
        self.reference = reference if reference is not None and len(reference.images) else None
        self._known: Tensor | None = None

    def find(self, backbone: Backbone, session: Session, extract: Extract, text: Tensor, setting: str) -> Found:
        """The keys, with features and labels to choose by: see `held_out`.

        Keys from a reference set are judged by all of the session's training pictures, unless it has pictures for
        validation.

        Args:
            backbone: frozen.
            session: whose classes are looked for.
            extract: the feature pass.
            text: (C, E) of the session's classes.
            setting: what is chosen, for a warning.
        """
        if self.reference is None:
            keys, shown, labels = self._encode(backbone, session.train, extract)
            return Found(keys, labels, _judges(backbone, session, extract, shown, labels, setting))
        positions, columns = self._nearest(backbone, session, extract, text)
        keys, _, _ = self._encode(backbone, self.reference.images.subset(positions.tolist()), extract)
        labels = torch.tensor(session.classes.ids, device=keys.device)[columns]
        return Found(keys, labels, _judges(backbone, session, extract, None, labels, setting))

    def _encode(self, backbone: Backbone, samples: Samples, extract: Extract) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, E) of length 1 of the mean over all views and of the first view; labels (N,)."""
        passes = [
            extract(samples, lambda images: backbone.encode_image(images, normalize=False), as_trained=True, number=i)
            for i in range(self.views)
        ]
        mean = torch.stack([features for features, _ in passes]).mean(dim=0)
        return F.normalize(mean, dim=-1), F.normalize(passes[0][0], dim=-1), passes[0][1]

    def _nearest(self, backbone: Backbone, session: Session, extract: Extract, text: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in the reference set, and the columns of the classes that they stand for.

        Pictures of a class's name are its own; a class that no picture is named after has the most similar of all.
        """
        assert self.reference is not None  # asked only then
        if self._known is None:
            self._known, _ = extract(self.reference.images, backbone.encode_image)
        near = text.to(self._known.dtype) @ self._known.T
        found = []
        for name, row in zip(session.classes.names, near, strict=True):
            own = torch.tensor([shown == name for shown in self.reference.names], device=row.device)
            if own.any():
                row = row.masked_fill(~own, -torch.inf)
            found.append(row.topk(min(self.per_class, int(own.sum()) or len(row))).indices)
        columns = torch.cat([torch.full_like(own, column) for column, own in enumerate(found)])
        return torch.cat(found), columns


def _judges(
    backbone: Backbone, session: Session, extract: Extract, shown: Tensor | None, labels: Tensor, setting: str
) -> Iterator[Fold]:
    """What keys with labels (M,) are judged by; encoded when it is asked for, as only first sessions do.

    Keys are the features `shown` (M, E) of the session's pictures, or None: of others.
    """
    judges = None if session.validation is None else extract(session.validation, backbone.encode_image)
    if shown is not None:
        yield from held_out(session, shown, labels, judges, setting)
    else:
        yield torch.ones_like(labels, dtype=torch.bool), *(judges or extract(session.train, backbone.encode_image))
