"""Joint training on everything seen so far: the upper bound.

After each session a fresh copy of the pre-trained weights is fine-tuned on the union of all sessions, with
cross-entropy over all classes seen, or whatever the sessions ask for: pairs of all of them are compared with each
other. Not a continual learner: it keeps all data.

Family: baselines.
Source: the joint baseline of the continual-learning literature; "Joint-CNN" of arXiv 2004.10956 is its few-shot form.
Differs: one model per point of the curve instead of one at the end. With few shots per new class the training set is
imbalanced; `balanced` draws each class equally often so that the curve stays an upper bound. On several data sets a
picture is compared with the classes of all of them in training, also where each is classified by itself later.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract, Method
from everclip.objectives.classification import Classification
from everclip.types import Batch, Phase, Samples, Session


class Joint(Method):
    """All weights of the backbone, trained anew on all sessions so far.

    Args:
        backbone: unfrozen in place.
        balanced: repeat the pictures of small classes until every class has as many as the largest; where there are no
            classes, every picture comes once.
    """

    sees = "all"
    any_objective = True

    def __init__(self, backbone: Backbone, *, balanced: bool = True) -> None:
        super().__init__(backbone)
        backbone.requires_grad_(True)
        self.balanced = balanced
        self._pretrained = {name: value.clone() for name, value in backbone.state_dict().items()}

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.objective = session.objective or Classification()
        self.classes = session.seen
        self.backbone.load_state_dict(self._pretrained)

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return (Phase(data=_balance(session.train) if self.balanced else session.train),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.loss(self, batch, self.classes, 0.0)


def _balance(images: Samples) -> Samples:
    """The pictures of every class repeated in turn until all classes have as many as the largest."""
    _, labels, counts = np.unique(images.labels, return_inverse=True, return_counts=True)
    members = [np.flatnonzero(labels == label) for label in range(len(counts))]
    return images.subset(np.concatenate([np.resize(own, counts.max()) for own in members]))
