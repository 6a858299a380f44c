"""CODA-Prompt: prefixes inside attention as a weighted sum of prompt components, of which each session adds some.

A first pass through the frozen image tower gives a query; its cosine to the key of a component, after a product with
the component's attention vector, is the component's weight. Trained: prompts, keys and attention vectors of the
session's components (3,840,000 values in all sessions on ViT-B/16, a tenth of it in each of ten), and a linear layer
with `head: linear`.

Family: prompts.
Source: arXiv 2211.13218, official code GT-RIPL/CODA-Prompt @ 6417d4f (`models/zoo.py`, `learners/prompt.py`).
Differs: the tower is CLIP's, and classes are text features unless `head` is linear as in the paper: CLIP's users expect
classes by name, and no layer can forget. As in the code, not the paper, new components are orthogonalised when their
session begins, and the penalty is off. Of the weights only those of the session are in the optimiser, so weight decay
cannot reach earlier ones either. Weights come from two matrix products instead of one query per picture and component.
The last batch of a pass may be smaller, where the code leaves it out.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.orthogonality import orthogonality
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.image_head import HeadKind, ImageHead
from everclip.modules.prompt_pool import (
    Layers,
    Prefixes,
    SessionParts,
    attended_similarity,
    known_sessions,
    make_query,
    orthogonalised,
    prompted_width,
)
from everclip.types import Batch, ClassSet, Positive, Session


class CodaPrompt(Method):
    """Attention-weighted prompt components.

    Args:
        backbone: with access to the tokens of its image tower; stays frozen.
        num_sessions: N, sessions that the components are divided among; None: those of the sequence.
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

    takes_clips = False  # a prompt is chosen for a picture
    frozen_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_sessions: Positive | None = None,
        pool: Positive = 100,
        length: Positive = 8,
        layers: Layers = (0, 1, 2, 3, 4),
        ortho_weight: Annotated[float, Field(ge=0)] = 0.0,
        head: HeadKind = "text",
    ) -> None:
        super().__init__(backbone)
        width = prompted_width(backbone, layers=layers)
        sessions = known_sessions(num_sessions)
        share = pool // len(sessions)
        if share == 0 or share * len(sessions) > width:
            raise ValueError(f"pool={pool} must be from num_sessions={num_sessions} to the tower's width {width}")
        if length % 2:
            raise ValueError(f"length={length} must be even: one half are keys, the other values")
        self.layers = layers
        self.ortho_weight = ortho_weight
        shape = (len(layers), share)
        self.prompts = SessionParts([torch.zeros(*shape, length, width) for _ in sessions])
        self.keys = SessionParts([torch.zeros(*shape, width) for _ in sessions])
        self.attention = SessionParts([torch.zeros(*shape, width) for _ in sessions])
        self.register_buffer("opened", torch.zeros((), dtype=torch.long))  # sessions begun
        self.head = ImageHead(width, head)
        self.open_vocabulary = head == "text"

    @override
    def check(self, num_sessions: int) -> None:
        self.keys.check(num_sessions)

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        for components in (self.keys, self.attention, self.prompts):
            components.open(session.index)
            new = components.parts[session.index]
            earlier = components.until(session.index + 1)[:, : -new.shape[1]].flatten(2)
            with torch.no_grad():
                new.copy_(torch.stack([orthogonalised(rows, new.shape[1]) for rows in earlier]).view_as(new))
        self.opened.fill_(session.index + 1)
        self.classes = session.classes
        encode, keep = partial(make_query, self.backbone), session.recurs
        self.queries = frozen_features(encode, session.train, extract, keep=keep)
        self.head.begin(self.backbone, session, self.class_features)

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and attention vectors (G, K, D) and prompts (G, K, L, D) of the sessions begun."""
        count = int(self.opened)
        return self.keys.until(count), self.attention.until(count), self.prompts.until(count)

    def edit(self, queries: Tensor) -> Prefixes:
        """The prefixes of pictures with these queries (B, D)."""
        keys, attention, prompts = self.components()
        weights = attended_similarity(queries, attention, keys)
        prefixes = torch.einsum("gbk,gkld->gbld", weights, prompts).chunk(2, dim=2)
        return Prefixes(dict(zip(self.layers, zip(*prefixes, strict=True), strict=True)))

    def chosen(self, images: Tensor) -> Prefixes:
        """The prefixes of pictures (B, 3, S, S)."""
        return self.edit(make_query(self.backbone, images))

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.head.features(self.backbone, batch.images, self.edit(self.queries(batch)))
        logits = similarity(features, self.head.training_rows(self.classes))
        losses = {"cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels))}
        if self.ortho_weight:
            penalties = [orthogonality(components.flatten(2)) for components in self.components()]
            losses["orthogonality"] = self.ortho_weight * torch.stack(penalties).sum()
        return losses

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        return self.backbone.encode_image(images, self.chosen(images))

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        rows = self.head.rows(self.backbone, classes, self.class_features)
        return lambda images: similarity(self.head.features(self.backbone, images, self.chosen(images)), rows)
