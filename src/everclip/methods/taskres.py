"""TaskRes: every class's text feature and a residual that is trained; the text tower is read once.

t' = t + scale * x with x = 0 at first, on text features before their length becomes 1. A session trains the residuals
of its own classes (E values each) by cross-entropy among them; those of earlier sessions stay as they are.

Family: behind the towers.
Source: arXiv 2211.10277, official code geekyutao/TaskRes @ 5195359 (trainers/taskres.py).
Differs: only the code's regular base, which needs no text projection trained before. Adam's weight decay of the code's
framework (5e-4, added to the gradient) is left out, and its first epoch at 1e-5.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Extract, Method
from everclip.modules.class_rows import ClassRows
from everclip.types import Batch, ClassSet, Session


class Taskres(Method):
    """Text features of classes with residuals; a class that was never trained on has none.

    Args:
        backbone: stays frozen.
        scale: alpha of the paper, of the residual; 0 is zero-shot CLIP.
    """

    frozen_images = True

    def __init__(self, backbone: Backbone, *, scale: Annotated[float, Field(ge=0)] = 0.5) -> None:
        super().__init__(backbone)
        self.residuals = ClassRows(backbone.embed_dim, trainable=True)
        self.scale = scale

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.residuals.append(session.new, torch.zeros(len(session.new), self.backbone.embed_dim))
        self.put_back = self.residuals.keeping_others(session.classes)
        self.classes = session.classes
        self.base = self._base(self.classes)

    @override
    def after_step(self) -> None:
        self.put_back()

    def _base(self, classes: ClassSet) -> Tensor:
        """Text features (C, E): means over the templates of features of any length."""
        rows = self.residuals.rows.new_empty(len(classes), self.backbone.embed_dim)
        for positions, group in classes.by_templates():
            prompts = [self.backbone.tokenize(group.prompts(template)) for template in self.templates(group)]
            texts = [self.backbone.encode_text(own.to(rows.device), normalize=False) for own in prompts]
            rows[positions] = torch.stack(texts).mean(dim=0).to(rows.dtype)
        return rows

    @override
    def class_features(self, classes: ClassSet) -> Tensor:
        rows, known = self._base(classes), set(self.residuals.ids.tolist())
        trained = [position for position, class_id in enumerate(classes.ids) if class_id in known]
        if trained:
            rows[trained] += self.scale * self.residuals.of(classes.select(trained))
        return F.normalize(rows, dim=-1)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        text = F.normalize(self.base + self.scale * self.residuals.of(self.classes), dim=-1)
        logits = self.backbone.logit_scale * similarity(self.encode_image(batch.images), text)
        return {"cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels))}
