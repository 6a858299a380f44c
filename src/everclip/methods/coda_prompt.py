"""CODA-Prompt: prefixes inside attention as a weighted sum of prompt components, of which each session adds some.

A first pass through the frozen image tower gives a query; its cosine to the key of a component, after a product with
the component's attention vector, is the component's weight. Trained: prompts, keys and attention vectors of the
session's components (3,840,000 values in all sessions on ViT-B/16, a tenth of it in each of ten), and a linear layer
with `head: linear`.

Source: arXiv 2211.13218, official code GT-RIPL/CODA-Prompt @ 6417d4f (`models/zoo.py`, `learners/prompt.py`).
Differs: the tower is CLIP's, and classes are text features unless `head` is linear as in the paper: CLIP's users expect
classes by name, and no layer can forget. As in the code, not the paper, new components are orthogonalised when their
session begins, and the penalty is off. Of the weights only those of the session are in the optimiser, so weight decay
cannot reach earlier ones either. Weights come from two matrix products instead of one query per picture and component.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.errors import ConfigError
from everclip.losses.orthogonality import orthogonality
from everclip.methods.base import Classifier, Extract, Method, similarity
from everclip.modules.image_head import LinearHead, head_features
from everclip.modules.prompt_pool import (
    Layers,
    Prefixes,
    SessionParts,
    attended_similarity,
    make_query,
    orthogonalised,
    prompted_width,
)
from everclip.types import Batch, ClassSet, Positive, Session


class CodaPrompt(Method):
    """Attention-weighted prompt components.

    Args:
        backbone: with access to the tokens of its image tower; stays frozen.
        num_sessions: N, sessions that the components are divided among.
        pool: components of a block; each session gets the whole part of `pool` / N.
        length: rows of a component, of which the first half are keys and the others values; even.
        layers: blocks of the image tower, from 0, each with components of its own.
        ortho_weight: of the penalty on components that are not orthonormal.
        head: classes as `text` features of their names, or rows of a `linear` layer.

    Raises:
        ValueError: fewer components than sessions, more than can be orthogonal, an odd length, or a backbone without
            these blocks.
    """

    opened: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_sessions: Positive = 10,
        pool: Positive = 100,
        length: Positive = 8,
        layers: Layers = (0, 1, 2, 3, 4),
        ortho_weight: Annotated[float, Field(ge=0)] = 0.0,
        head: Literal["text", "linear"] = "text",
    ) -> None:
        super().__init__(backbone)
        width = prompted_width(backbone, layers)
        share = pool // num_sessions
        if share == 0 or share * num_sessions > width:
            raise ValueError(f"pool={pool} must be from num_sessions={num_sessions} to the tower's width {width}")
        if length % 2:
            raise ValueError(f"length={length} must be even: one half are keys, the other values")
        self.layers = layers
        self.num_sessions = num_sessions
        self.ortho_weight = ortho_weight
        shape = (len(layers), share)
        self.prompts = SessionParts([torch.zeros(*shape, length, width) for _ in range(num_sessions)])
        self.keys = SessionParts([torch.zeros(*shape, width) for _ in range(num_sessions)])
        self.attention = SessionParts([torch.zeros(*shape, width) for _ in range(num_sessions)])
        self.register_buffer("opened", torch.zeros((), dtype=torch.long))  # sessions begun
        self.head = LinearHead(width) if head == "linear" else None
        self.open_vocabulary = head == "text"  # type: ignore[misc]  # a constant of the class elsewhere

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        if session.index >= self.num_sessions:
            raise ConfigError(
                f"session {session.index + 1} of the sequence, but coda_prompt's pool was divided among "
                f"method.num_sessions={self.num_sessions}; set it to the number of sessions"
            )
        for components in (self.keys, self.attention, self.prompts):
            components.open(session.index)
            new = components.parts[session.index]
            earlier = components.until(session.index + 1)[:, : -new.shape[1]].flatten(2)
            with torch.no_grad():
                new.copy_(torch.stack([orthogonalised(rows, new.shape[1]) for rows in earlier]).view_as(new))
        self.opened.fill_(session.index + 1)
        self.classes = session.new
        if self.head is not None:
            self.head.append(session.new)
        self.rows = self.class_rows(session.new) if self.head is None else None  # texts do not change

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and attention vectors (G, K, D) and prompts (G, K, L, D) of the sessions begun."""
        count = int(self.opened)
        return self.keys.until(count), self.attention.until(count), self.prompts.until(count)

    def edit(self, images: Tensor) -> Prefixes:
        """The prefixes of pictures (B, 3, S, S)."""
        keys, attention, prompts = self.components()
        weights = attended_similarity(make_query(self.backbone, images), attention, keys)
        prefixes = torch.einsum("gbk,gkld->gbld", weights, prompts).chunk(2, dim=2)
        return Prefixes(dict(zip(self.layers, zip(*prefixes, strict=True), strict=True)))

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        rows = self.class_rows(self.classes) if self.rows is None else self.rows
        logits = similarity(head_features(self.backbone, batch.images, self.edit(batch.images), self.head), rows)
        losses = {"cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels))}
        if self.ortho_weight:
            penalties = [orthogonality(components.flatten(2)) for components in self.components()]
            losses["orthogonality"] = self.ortho_weight * torch.stack(penalties).sum()
        return losses

    def class_rows(self, classes: ClassSet) -> Tensor:
        """What features are multiplied with, one row per class: text features times the scale, or the linear layer."""
        if self.head is None:
            return self.backbone.logit_scale * self.class_features(classes)
        return self.head.rows(classes)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        return self.backbone.encode_image(images, self.edit(images))

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        rows = self.class_rows(classes)
        return lambda images: similarity(head_features(self.backbone, images, self.edit(images), self.head), rows)
