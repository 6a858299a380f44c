"""Linear probe: a linear classifier on frozen image features, trained session after session.

Rows for new classes start at zero. Cross-entropy runs over the session's classes, so earlier rows stay as they are, but
nothing calibrates them against later ones.

Family: baselines.
Source: the linear probe of arXiv 2103.00020, in its incremental form: a head trained by SGD on current classes.
Differs: the original is L-BFGS logistic regression on all data at once, which an incremental learner cannot do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.class_rows import ClassRows
from everclip.types import Batch, ClassSet, Session


class LinearProbe(Method):
    """A linear head (C, E) without bias on the normalised features of the frozen image tower."""

    frozen_images = True
    open_vocabulary = False

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.head = ClassRows(backbone.embed_dim, trainable=True)

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        self.head.append(session.new, torch.zeros(len(session.new), self.backbone.embed_dim))

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": self.cross_entropy(batch, self.classes)}

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        rows = self.head.of(classes)
        return lambda images: similarity(self.encode_image(images), rows)
