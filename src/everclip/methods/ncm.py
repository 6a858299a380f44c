"""Nearest class mean: a picture belongs to the class whose mean image feature is most similar; nothing is trained.

The mean of a class is that of the normalised features of its training pictures, so the result after all sessions does
not depend on how classes were spread over sessions.

Family: baselines.
Source: SimpleCIL, arXiv 2303.07338 (LAMDA-CL/C3Box @ 1378ab2, `models/simplecil.py`).
Differs: features are normalised before averaging, the more usual form; SimpleCIL averages raw features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.class_rows import ClassRows
from everclip.types import ClassSet, Phase, Session


class Ncm(Method):
    """Class means on the frozen image tower."""

    frozen_images = True
    open_vocabulary = False

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.means = ClassRows(backbone.embed_dim, trainable=False)
        self.lengths = ClassRows(1, trainable=False)  # of the sums of features, for classes that return

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return ()

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        features, labels = extract(session.train, self.encode_image)
        classes = session.classes
        columns = classes.columns(labels)
        means = torch.stack([features[columns == column].mean(dim=0) for column in range(len(classes))])
        counts = torch.bincount(columns, minlength=len(classes))[:, None]
        if again := len(session.returning):
            before = self.means.of(session.returning) * self.lengths.of(session.returning)
            counts[:again], means[:again] = 1, means[:again] * counts[:again] + before
        self.means.update(classes, F.normalize(means, dim=-1))
        self.lengths.update(classes, means.norm(dim=-1, keepdim=True) * counts)

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        means = self.means.of(classes)
        return lambda images: self.backbone.logit_scale * similarity(self.encode_image(images), means)
