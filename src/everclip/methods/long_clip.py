"""Long-CLIP: whole descriptions match pictures, and first sentences what the pictures' principal components keep.

All weights are trained, but the first 20 text positions, which CLIP's short captions have trained well; the others are
stretched to 248 tokens (`backbone.stretch=4`). A picture's text is compared with its feature, the text's first sentence
with what the 32 principal components of the batch keep of that feature, both by CLIP's loss with label smoothing.

Family: image-text pairs.
Source: arXiv 2403.15378, official code beichenzbc/Long-CLIP @ 3966af9 (model/model_longclip.py, train/train.py).
Differs: components are those of the whole batch, there of each GPU's share, of which up to 33 lose nothing, and
their gradient is finite where a picture comes twice; the logit scale is the backbone's at the start, there CLIP's 100;
positions and weights stay float32, there they are rounded to float16 when loaded. Later sessions go on from the last
one's weights. Labels stand for the first prompts of their classes, which are their own first sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import matching
from everclip.backbones.positions import KEPT
from everclip.losses.global_batch import global_rows
from everclip.losses.principal_components import reconstructed
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import texts_of
from everclip.objectives.contrastive import contrastive
from everclip.types import Batch, Draw, Indices, Phase, Positive, Prepare, Samples, Session


class LongClip(Method):
    """Fine-tuning on long texts and their first sentences.

    Args:
        backbone: unfrozen in place.
        components: principal components that a first sentence is compared with.
        short_weight: of the loss of first sentences.
        frozen_positions: text positions, from the first, that stay as they are.
        captions: of a picture that make its text: one `drawn` in every pass, or all of them `joined`, in an order that
            is drawn.
        label_smoothing: share of the target spread over the batch.
    """

    learns_pairs = True
    couples_batch = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        components: Positive = 32,
        short_weight: Annotated[float, Field(ge=0)] = 1.0,
        frozen_positions: Annotated[int, Field(ge=0)] = KEPT,
        captions: Literal["drawn", "joined"] = "drawn",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ) -> None:
        super().__init__(backbone)
        backbone.requires_grad_(True)
        weights = dict(backbone.named_parameters())
        (name,) = matching(weights, r"(?!.*visual\.).*positional_embedding", "table of text positions")
        self.positions = (weights[name],)  # a tuple: it is in the state as a part of the backbone
        self.components, self.short_weight = components, short_weight
        self.frozen_positions = frozen_positions
        self.joined = captions == "joined"
        self.label_smoothing = label_smoothing

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        self.kept_positions = self.positions[0][: self.frozen_positions].detach().clone()

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return (Phase(data=JoinedCaptions(session.train) if self.joined and session.train.texts else None),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        read = [texts_of(batch, self.classes)]
        if self.short_weight:
            read.append(tuple(first_sentence(text) for text in read[0]))
        features = global_rows(batch.indices, self.encode_image(batch.images), *map(self.encode_text, read))
        return self.terms(*features, scale=self.backbone.logit_scale)

    def terms(self, pictures: Tensor, long: Tensor, short: Tensor | None = None, *, scale: Tensor) -> dict[str, Tensor]:
        """The losses of features (B, E) of length 1: of pictures, their texts, and the texts' first sentences."""
        compare = partial(contrastive, scale=scale, label_smoothing=self.label_smoothing)
        losses = {"long": compare(pictures, long)}
        if short is not None:
            losses["short"] = self.short_weight * compare(reconstructed(pictures, self.components), short)
        return losses

    @override
    def before_step(self) -> None:
        gradient = self.positions[0].grad
        if gradient is not None:
            gradient[: self.frozen_positions] = 0

    @override
    @torch.no_grad()
    def after_step(self) -> None:
        self.positions[0][: self.frozen_positions] = self.kept_positions  # weight decay moves them too


def first_sentence(text: str) -> str:
    """What stands before the first full stop that a space follows."""
    return text.replace("\n", " ").split(". ")[0] or text


class JoinedCaptions(Samples):
    """Pairs whose text is all captions of a picture, one after the other, in training in a drawn order.

    Args:
        pairs: with one caption or several.
    """

    def __init__(self, pairs: Samples) -> None:
        self._pairs = pairs
        self.labels, self.files = pairs.labels, pairs.files
        self.num_frames, self.drawn = pairs.num_frames, pairs.drawn
        self.texts = tuple((" ".join(own),) for own in pairs.texts)

    @override
    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        texts = []
        for index in indices:
            own = self._pairs.texts[index]
            order = range(len(own)) if draw is None else draw.stream(index).permutation(len(own))
            texts.append(" ".join(own[position] for position in order))
        return replace(self._pairs.read(indices, prepare, draw), texts=tuple(texts))

    @override
    def subset(self, indices: Sequence[int] | Indices) -> JoinedCaptions:
        return JoinedCaptions(self._pairs.subset(indices))

    @override
    def fingerprint(self) -> str:
        return self._pairs.fingerprint()

    @override
    def version(self) -> str:
        return self._pairs.version()
