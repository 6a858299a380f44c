"""MCIP: an image tower for finding pictures by pictures that stays aligned with the text tower, which then follows it.

First the image tower learns to tell classes apart with an angular margin, and each picture to be nearer to its several
captions than to those of others, as the frozen text tower has them. Then the text tower is aligned anew with what the
pictures have become (Re-A). Sessions go on with the same weights. Classes without captions have their prompts for it;
pairs without labels are told apart by captions alone.

Family: image-text pairs.
Source: arXiv 2409.01936 (Visual-Computing/MCIP @ 3b9adb9 has checkpoints, but no code of the training).
Differs: scales, margins, weights and learning rates are not published; the margin loss of captions is written down from
the paper's figure. The rows of the classes begin as their text features, and are kept for classes that come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.angular import arc_margin, multi_caption_margin
from everclip.losses.global_batch import global_rows
from everclip.memory.frozen import frozen_captions, frozen_features
from everclip.methods.base import Extract, Method, Preparation
from everclip.modules.class_rows import ClassRows
from everclip.modules.fine_tuning import texts_of
from everclip.modules.tower_blocks import unfreeze_matching
from everclip.objectives.contrastive import contrastive
from everclip.types import Batch, ClassSet, ParameterGroup, Phase, Positive, Session

AboveZero = Annotated[float, Field(gt=0)]
Angle = Annotated[float, Field(ge=0, lt=3.15)]


class Mcip(Method):
    """The image tower by margins, then the text tower by pairs.

    Args:
        backbone: unfrozen in place.
        arc_scale: of cosines between pictures and rows of classes.
        arc_margin: radians by which the angle to the right class counts as wider.
        caption_scale: of cosines between pictures and captions.
        caption_margin: radians by which the angle to a picture's own captions counts as wider.
        caption_weight: of the captions' loss.
        captions: of each picture, at most.
        row_lr: learning rate of the rows.
        realign_epochs: passes over the pictures in which the text tower follows; null: as many as the image tower has.
        realign_lr: learning rate of the text tower; null: the optimiser's.
    """

    learns_pairs = True
    couples_batch = True
    all_parameters_used = False  # the towers take turns

    def __init__(
        self,
        backbone: Backbone,
        *,
        arc_scale: AboveZero = 30.0,
        arc_margin: Angle = 0.3,
        caption_scale: AboveZero = 30.0,
        caption_margin: Angle = 0.3,
        caption_weight: Annotated[float, Field(ge=0)] = 1.0,
        captions: Positive = 3,
        row_lr: AboveZero = 1e-3,
        realign_epochs: Annotated[int, Field(ge=0)] | None = None,
        realign_lr: AboveZero | None = None,
    ) -> None:
        super().__init__(backbone)
        unfreeze_matching(backbone, "vision", ".*")
        self.image_side = tuple(weight for weight in backbone.parameters() if weight.requires_grad)
        self.text_side = tuple(weight for weight in backbone.parameters() if not weight.requires_grad)
        backbone.requires_grad_(True)
        self.rows = ClassRows(backbone.embed_dim, trainable=True)
        self.arc = {"scale": arc_scale, "margin": arc_margin}
        self.caption = {"scale": caption_scale, "margin": caption_margin}
        self.caption_weight = caption_weight
        self.captions = captions
        self.row_lr = row_lr
        self.realign_epochs, self.realign_lr = realign_epochs, realign_lr

    @override
    @torch.no_grad()
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes, texts = session.classes, session.train.texts
        prompts = prompts_of(self.classes)
        self.count = min(self.captions, max(map(len, texts or prompts)))
        self.read = None
        if texts:
            keep = session.repeats > 1
            self.read = frozen_captions(self.caption_features, session.train, extract, keep=keep)
        else:
            self.prompts = self.caption_features(prompts)
        known = set(self.rows.ids.tolist())
        if new := [position for position, class_id in enumerate(self.classes.ids) if class_id not in known]:
            fresh = self.classes.select(new)
            self.rows.append(fresh, self.class_features(fresh))

    @override
    def phases(self, session: Session) -> tuple[Phase | Preparation, ...]:
        groups = [ParameterGroup(self.image_side)]
        if self.classes:
            assert isinstance(self.rows.rows, nn.Parameter)
            groups.append(ParameterGroup((self.rows.rows,), lr=self.row_lr))
        images = Phase("images", parameters=tuple(groups), loss=self.image_loss)
        return (images,) if self.realign_epochs == 0 else (images, partial(self.realign, session))

    def realign(self, session: Session, extract: Extract) -> Phase:
        """The text tower's phase, with pictures as the image tower now has them."""
        self.known = frozen_features(self.encode_image, session.train, extract, keep=session.recurs)
        return Phase(
            "texts", parameters=self.text_side, loss=self.text_loss, epochs=self.realign_epochs, lr=self.realign_lr
        )

    def image_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Both margins, of the whole batch."""
        features, labels = global_rows(batch.indices, self.encode_image(batch.images), batch.labels)
        if self.read is not None:
            (captions,) = global_rows(batch.indices, self.read(batch))
            right = torch.arange(len(captions), device=captions.device)
        else:
            captions, right = self.prompts, self.classes.columns(labels)
        losses = {"captions": self.caption_weight * multi_caption_margin(features, captions, right, **self.caption)}
        if self.classes:
            rows = F.normalize(self.rows.of(self.classes), dim=-1)
            losses["classes"] = arc_margin(features, rows, self.classes.columns(labels), **self.arc)
        return losses

    def text_loss(self, batch: Batch) -> dict[str, Tensor]:
        """CLIP's loss, of the whole batch."""
        texts = self.encode_text(texts_of(batch, self.classes))
        pictures, texts = global_rows(batch.indices, self.known(batch), texts)
        return {"contrastive": contrastive(pictures, texts, scale=self.backbone.logit_scale)}

    @torch.no_grad()
    def caption_features(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Features (N, K, E) of the first captions of each; those of one that has fewer come again."""
        chosen = [own[number % len(own)] for own in texts for number in range(self.count)]
        return self.encode_text(chosen).unflatten(0, (len(texts), self.count))


def prompts_of(classes: ClassSet) -> list[list[str]]:
    """The prompts of each class, one per template."""
    alone = [classes.select([position]) for position in range(len(classes))]
    return [[template.format(one.names[0]) for template in one.templates] for one in alone]
