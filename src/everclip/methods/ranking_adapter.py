"""Ranking-aware adapter: orders pictures by a text, with a network on the tokens of a frozen CLIP.

Patches read the tokens of the text; a head gives each picture a score. In training, relation tokens also read pairs of
pictures, and a second head says which of the two has the larger value. A class is a text to order by: where a session
has values, those of its pictures; where it has labels, pictures of the class before all others (1 and 0).
Trained: the network (40.8 M values at width 768).

Family: ordering by texts.
Source: arXiv 2412.06760, official code uynaes/RankingAwareCLIP @ 05fc5c5 (configs/model-config.json).
Differs: the whole backbone is frozen, where the code leaves embeddings and last norm of the texts to train. Text tokens
are the residual stream up to the text's end, before the last norm (the code: all 77 after it; blocks norm them again).
Learned text tokens are vectors: the code's are one number for all D values, which the norm behind them cancels, so that
they never train. A negative is a picture of another class, never one of the same. The projection is drawn, which the
code leaves uninitialised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.pieces import in_pieces
from everclip.errors import ConfigError
from everclip.losses.global_batch import global_rows
from everclip.losses.ordering import pair_loss, value_loss
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.ranking import Ranker
from everclip.objectives.ordering import values_of
from everclip.types import Batch, ClassSet, Indices, ParameterGroup, Phase, Positive, Session


@dataclass(frozen=True)
class Groups:
    """Draws batches of different pictures: most of one class, by their weights, which stand first, then of others.

    Attributes:
        steps: batches of a pass.
        labels: (N,) classes of the phase's pictures.
        pictures: (N,) their numbers: one that is of the class too is none of the others.
        weights: see `Samples`.
        negative_ratio: share of the others; more where the class has too few pictures, less where there are no others.
    """

    steps: int
    labels: Indices = field(repr=False)
    pictures: Indices = field(repr=False)
    weights: NDArray[np.float64] | None = field(repr=False)
    negative_ratio: float

    def __call__(self, stream: np.random.Generator, size: int) -> Indices:
        """Positions (size,) of one batch."""
        own, others = self._divided(stream.choice(np.unique(self.labels)))
        count = min(max(1, int(size * (1 - self.negative_ratio))), len(own))
        count = max(count, size - len(others))
        chances = None if self.weights is None else self.weights[own] / self.weights[own].sum()
        positive = stream.choice(own, count, replace=False, p=chances)
        return np.concatenate([positive, stream.choice(others, size - count, replace=False)])

    def largest(self) -> int:
        """How many pictures there are for a batch of any class."""
        return min(sum(map(len, self._divided(label))) for label in np.unique(self.labels))

    def _divided(self, label: int) -> tuple[Indices, Indices]:
        """Positions of the pictures of a class, and of the others."""
        own = self.labels == label
        return np.flatnonzero(own), np.flatnonzero(~own & ~np.isin(self.pictures, self.pictures[own]))


class RankingAdapter(Method):
    """A network beside a frozen backbone.

    Args:
        backbone: whose patches can be had in the joint embedding, with a causal text tower of the same width.
        num_layers: see `Ranker`, as of the next four.
        heads: of attention.
        num_text_tokens: learned, in front of a text's.
        num_relations: tokens that compare pictures.
        dropout: in half of the layers. Processes draw their own.
        group_size: pictures of a step, each compared with each; no more than there are for each class of a session.
        negative_ratio: share of pictures of other classes in a group, with value 0.
        rank_weight: of the cross-entropy over pairs.
        regression_weight: of the distance between scores and values.

    Raises:
        ConfigError: a backbone of other widths, or heads that do not divide them.
    """

    learns_order = True
    takes_clips = False
    couples_batch = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_layers: Positive = 2,
        heads: Positive = 8,
        num_text_tokens: Positive = 32,
        num_relations: Positive = 16,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        group_size: Positive = 64,
        negative_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        rank_weight: Annotated[float, Field(gt=0)] = 1.0,
        regression_weight: Annotated[float, Field(gt=0)] = 0.2,
    ) -> None:
        super().__init__(backbone)
        width, text = backbone.embed_dim, backbone.text
        if text is None or text.width != width:
            raise ConfigError(
                "ranking_adapter compares tokens of texts and pictures of one width, but those of this backbone are "
                f"{'hidden' if text is None else text.width} and {width}; use for example backbone=vit_b16_openai"
            )
        if width % heads:
            raise ConfigError(f"method.heads={heads} must divide the backbone's width {width}")
        self.ranker = Ranker(
            width,
            heads=heads,
            num_layers=num_layers,
            num_text_tokens=num_text_tokens,
            num_relations=num_relations,
            dropout=dropout,
        )
        self.group_size, self.negative_ratio = group_size, negative_ratio
        self.rank_weight, self.regression_weight = rank_weight, regression_weight

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        train = session.train
        groups = Groups(1, train.labels, train.shown(), train.weights, self.negative_ratio)
        size = min(self.group_size, groups.largest())
        draws = replace(groups, steps=math.ceil(len(train) / size))
        trained = list(self.ranker.parameters())
        vectors = ParameterGroup(tuple(p for p in trained if p.ndim < 2), weight_decay=0.0)  # biases and norms
        return (Phase(parameters=(*(p for p in trained if p.ndim > 1), vectors), draws=draws, batch_size=size),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        asked = global_rows(batch.indices, batch.labels)[0][0]  # the class that the group was drawn for
        (column,) = self.classes.columns(asked[None]).tolist()
        values = torch.ones_like(batch.labels, dtype=torch.float32) if batch.targets is None else values_of(batch)
        text = self._tokens(self.classes.first_prompts()[column])

        def read(images: Tensor) -> tuple[Tensor, ...]:
            patches = self.ranker.fusion(self._patches(images), text)
            return self.ranker.scores(patches), *self.ranker.relate.attend(patches)

        found = in_pieces(self.backbone, read, batch.images)
        values, scores, *related = global_rows(batch.indices, values * (batch.labels == asked), *found)
        return {
            "rank": self.rank_weight * pair_loss(self.ranker.comparisons(*related), values),
            "regression": self.regression_weight * value_loss(scores, values),
        }

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        """The scores for each class's text, by the first of its templates."""
        texts = [self._tokens(text) for text in classes.first_prompts()]

        def classify(images: Tensor) -> Tensor:
            patches = self._patches(images)
            scores = [self.ranker.scores(self.ranker.fusion(patches, text)) for text in texts]
            return torch.stack(scores, dim=1)

        return classify

    def _patches(self, images: Tensor) -> Tensor:
        """(B, P, D)."""
        return self.backbone.encode_patches(images, normalize=False).flatten(1, 2)

    def _tokens(self, text: str) -> Tensor:
        """(L, D) up to the text's end."""
        tokens = self.backbone.tokenize([text]).to(self.backbone.device)
        return self.backbone.hidden_text(tokens, [-1])[0][0]
