"""C-CLIP: low-rank updates, half of which are kept, and features that the model before the session can recognise.

Every session trains low-rank updates by CLIP's loss, and embeddings and projections with them; a share of the updates
is then added to the weights. Meanwhile every new feature, through a projector, must find the previous model's feature
of the same picture or text among all others of the batch (contrastive knowledge consolidation): old and new features
stay connected but need not be equal. Trained on ViT-B/16: 30,145,024 values, the projector among them.

Family: low-rank updates.
Source: ICLR 2025, openreview sb7qHFYwBc; its code (SmallPigPeppa/C-CLIP) was not to be had. Compared with a
re-implementation, KoyoImai/C-CLIP @ 5c94af3, whose consolidation is that of `pairs`.
Differs: what the paper leaves open follows from its table 6 or from the re-implementation. Per rank 0.184 million
values are trained there (ViT-B/16), as many as in updates of attention outputs and MLP; beside them 26.1 million, as
many as embeddings and projections have. The projector is the re-implementation's. There is no dropout on what updates
read (0.1 there), as it can be had for q, k and v alone, and the logit scale is not trained. On class sequences the
texts are those of the session's classes, each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.matching import consolidation, matching
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract, Method
from everclip.modules.lora import Target, add_low_rank, merged_bytes
from everclip.modules.pairing import Pairing, pairing
from everclip.modules.projector import Projector
from everclip.modules.teacher import Teacher
from everclip.modules.tower_blocks import Towers, unfreeze_matching
from everclip.types import Batch, ParameterGroup, Phase, Positive, Session

EMBEDDINGS = (
    r"(text\.)?token_embedding\.weight",
    r"(text\.)?positional_embedding",
    r"visual\.positional_embedding",
    r"visual\.class_embedding",
)
PROJECTIONS = (r"(text\.)?text_projection", r"visual\.proj")


class CClip(Method):
    """Low-rank updates with contrastive knowledge consolidation.

    Args:
        backbone: with access to the blocks of the adapted towers.
        rank: see `Lora`, as of the next three.
        alpha: of the updates.
        targets: of the updates.
        towers: which are adapted.
        merged_share: of a session's updates, that is added to the weights when it ends.
        embeddings: whether embeddings of tokens, classes and positions are trained too.
        projections: whether projections to the joint embedding are trained too.
        projector_width: in the middle of the projector; None: twice the width of the joint embedding.
        consolidation_weight: of the loss between old and new features.
        consolidation_rows: what finds what: the `instances`, every picture and every text, or the `pairs`, a picture's
            feature and its text's in one row.
        consolidation_temperature: of that loss.
        text_lr: learning rate of the text tower; None: the optimiser's, as for all others.

    Raises:
        ValueError: a tower that is no plain transformer, or has none of the embeddings or projections asked for.
    """

    learns_pairs = True
    couples_batch = True
    shardable = False  # the teacher is a copy of whole weights

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: Positive = 16,
        alpha: Annotated[float, Field(gt=0)] = 32.0,
        targets: Annotated[Sequence[Target], Field(min_length=1)] = ("o", "fc", "proj"),
        towers: Towers = "both",
        merged_share: Annotated[float, Field(ge=0, le=1)] = 0.5,
        embeddings: bool = True,
        projections: bool = True,
        projector_width: Positive | None = None,
        consolidation_weight: Annotated[float, Field(ge=0)] = 2.0,
        consolidation_rows: Literal["instances", "pairs"] = "instances",
        consolidation_temperature: Annotated[float, Field(gt=0)] = 0.07,
        text_lr: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__(backbone)
        # A tuple: updates are part of the backbone, and so of the state, only once.
        self.updates = tuple(add_low_rank(backbone, rank=rank, targets=targets, towers=towers, scale=alpha / rank))
        for name in (*(EMBEDDINGS if embeddings else ()), *(PROJECTIONS if projections else ())):
            unfreeze_matching(backbone, "both", name)
        self.projector = Projector(backbone.embed_dim, projector_width or 2 * backbone.embed_dim)
        self.projector.requires_grad_(consolidation_weight > 0)
        self.merged_share = merged_share
        self.consolidation_weight = consolidation_weight
        self.consolidation_temperature = consolidation_temperature
        self.by_instance = consolidation_rows == "instances"
        self.text_lr = text_lr

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        for update in self.updates:
            if not session.is_base:
                update.merge()
            update.reset()
        if self.consolidation_weight:
            self.teacher = Teacher(self.backbone)
            encode = partial(self.teacher.encode_image, normalize=False)
            self.known = frozen_features(encode, session.train, extract, keep=session.recurs)

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`: the updates of earlier sessions."""
        return merged_bytes(self.updates, len(sizes))

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        text = tuple(p for name, p in named if name.startswith("backbone.") and ".visual." not in name)
        rest = tuple(p for name, p in named if not name.startswith("backbone.") or ".visual." in name)
        return (Phase(parameters=(ParameterGroup(rest), ParameterGroup(text, lr=self.text_lr))),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        new = pairing(batch, self.classes, self._encode_image, self._encode_text)
        pictures, texts = (F.normalize(features, dim=1) for features in (new.pictures, new.texts))
        losses = {"contrastive": matching(self.backbone.logit_scale * similarity(pictures, texts), new.own)}
        if self.consolidation_weight:
            projected = Pairing(self.projector(new.pictures), self.projector(new.texts), new.own)
            known_text = partial(self.teacher.encode_text, normalize=False)
            old = pairing(batch, self.classes, lambda _: self.known(batch), known_text)
            kept = consolidation(self._rows(projected), self._rows(old), self.consolidation_temperature)
            losses["consolidation"] = self.consolidation_weight * kept
        return losses

    def _rows(self, features: Pairing) -> Tensor:
        if self.by_instance:
            return torch.cat([features.pictures, features.texts])
        return torch.cat([features.pictures, features.texts[features.own]], dim=1)

    def _encode_image(self, images: Tensor) -> Tensor:
        return self.backbone.encode_image(images, normalize=False)

    def _encode_text(self, texts: Sequence[str]) -> Tensor:
        return self.backbone.encode_text(self.backbone.tokenize(texts).to(self.backbone.device), normalize=False)

    @override
    @torch.no_grad()
    def end_session(self, session: Session, extract: Extract) -> None:
        for update in self.updates:
            update.up.mul_(self.merged_share)
