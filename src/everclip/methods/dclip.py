"""DCLIP: a teacher that looks from words to regions of a picture and back, and an image tower that learns from it.

In a session's first phase attention between features of regions and of words learns, by contrast over the batch, to
make of a picture and its text one feature near that of the text. In the second the image tower is drawn to that
feature, and trained by contrast with the texts. Only the image tower is left of both: 86,192,640 values on ViT-B/16,
and 2,103,296 of the teacher. Regions are the cells of fixed grids, encoded once a session as it begins.

Family: image-text pairs.
Source: arXiv 2505.21549; the authors' code ChuckDanz/DCLIP @ ed9a11f (training/).
Differs: no detector gives the regions (YOLOv8x there), grids do; they are normalised as pictures are, there they are
not. Padding of texts is masked; there zero rows are attended to and pooled. As the paper says, the text tower stays as
it is, so that the distillation of text features, zero, is left out; the code trains it, and of the image tower weights
named proj alone (`weights: visual.(proj|.*attn.*)`). Of five epochs of the teacher the last counts, not the best. Later
sessions go on with teacher and student, on regions as the student before saw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.pieces import in_pieces
from everclip.losses.global_batch import global_rows
from everclip.losses.similarity import similarity
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import texts_of
from everclip.modules.regions import RegionAttention, Regions
from everclip.modules.tower_blocks import unfreeze_matching
from everclip.types import Batch, ParameterGroup, Phase, Positive, Session

POOLING = 2.0  # temperature


class Dclip(Method):
    """An image tower that learns from attention between regions and words.

    Args:
        backbone: with access to the tokens of its text tower; weights of its image tower are unfrozen in place.
        weights: regular expression of those, see `unfreeze_matching`.
        heads: of the teacher's attention.
        grids: cells along each side of the grids that give regions; 1 is the whole picture. The features of all regions
            of a session stay on the device: pictures x regions x E x 4 bytes.
        teacher_epochs: passes of the first phase.
        teacher_lr: its learning rate.
        distillation_weight: of the distance to the teacher.
        contrastive_weight: of the contrast with texts.
        temperature: of the contrast, in both phases.
    """

    learns_pairs = True
    takes_clips = False
    couples_batch = True  # pictures are compared with the texts of the batch
    all_parameters_used = False  # the phases take turns

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: str = ".*",
        heads: Positive = 8,
        grids: Annotated[Sequence[Positive], Field(min_length=1)] = (1, 2, 3),
        teacher_epochs: Positive = 5,
        teacher_lr: Annotated[float, Field(gt=0)] = 1e-5,
        distillation_weight: Annotated[float, Field(ge=0)] = 1.0,
        contrastive_weight: Annotated[float, Field(ge=0)] = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 0.05,
    ) -> None:
        super().__init__(backbone)
        unfreeze_matching(backbone, "vision", weights)
        if backbone.embed_dim % heads:
            raise ValueError(f"method.heads={heads} does not divide the width {backbone.embed_dim} of features")
        self.tuned = tuple(parameter for parameter in backbone.parameters() if parameter.requires_grad)
        self.teacher = RegionAttention(backbone.embed_dim, heads, POOLING)
        self.grids = tuple(grids)
        self.teacher_epochs, self.teacher_lr = teacher_epochs, teacher_lr
        self.distillation_weight, self.contrastive_weight = distillation_weight, contrastive_weight
        self.temperature = temperature

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        self.regions, _ = extract(Regions(session.train, self.grids), self._encode_regions)

    def _encode_regions(self, images: Tensor) -> Tensor:
        """Features (B, R, E) of any length of regions (B, R, 3, S, S)."""
        return torch.stack([self.backbone.encode_image(part, normalize=False) for part in images.unbind(1)], dim=1)

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        block = ParameterGroup(tuple(self.teacher.parameters()), lr=self.teacher_lr, weight_decay=0.0)
        first = Phase("teacher", parameters=(block,), loss=self.teacher_loss, epochs=self.teacher_epochs)
        return first, Phase("student", parameters=self.tuned)

    def teacher_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Contrast of what the teacher makes of pairs with their texts."""
        target, text = self._target(batch)
        return {"teacher": contrast(batch.indices, target, text, self.temperature)}

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            target, text = self._target(batch)
        own = self.encode_image(batch.images)
        return {
            "distillation": self.distillation_weight * (1 - F.cosine_similarity(own, target)).mean(),
            "contrastive": self.contrastive_weight * contrast(batch.indices, own, text, self.temperature),
        }

    def _target(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the teacher makes of pairs (B, E), and the features (B, E) of their texts."""
        backbone = self.backbone
        tokens = backbone.tokenize(texts_of(batch, self.classes)).to(backbone.device)
        with torch.no_grad():
            features = backbone.encode_words(tokens, normalize=False)
        ends = tokens.argmax(dim=-1)
        words = features[:, 1:-1]  # without the start; the end of the longest text is the last token
        padding = torch.arange(1, tokens.shape[1] - 1, device=tokens.device) >= ends[:, None]
        text = features[torch.arange(len(ends), device=ends.device), ends]
        regions = self.regions[batch.indices].to(words.dtype)
        (target,) = in_pieces(backbone, lambda *rows: (self.teacher(*rows),), words, regions, padding)
        return target, text


def contrast(indices: Tensor, features: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Cross-entropy (scalar) of features (B, E) finding their texts (B, E), and texts their features, in the batch.

    Args:
        indices: (B,) of the pairs, see `global_rows`.
        features: of any length.
        texts: of any length.
        temperature: that cosines are divided by.
    """
    rows, columns = global_rows(indices, F.normalize(features, dim=-1), F.normalize(texts, dim=-1))
    logits = similarity(rows, columns) / temperature
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
