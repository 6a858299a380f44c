"""Slow-fast: texts read the patches of a clip's frames by gated cross-attention; their frozen tower stays as it is.

The fast path is the mean of frame features. On the slow path every class text reads the pooled patches of all frames in
some blocks of the text tower; gates begin at zero, where the method is zero-shot CLIP. The reading knows no order of
frames: it finds what a text asks for, not motion.
Trained: a projector, and keys, values and gates of the blocks that read (2,102,790 values on ViT-B/16), by
cross-entropy. Every session goes on with them.

Family: video.
Source: arXiv 2504.01328, official code SHI-Labs/Slow-Fast-Video-Multimodal-LLM @ 69676a1.
Differs: no language model: CLIP's text tower stands in its place, class texts in that of questions, the similarity of
texts and frame mean in that of answers; the reading blocks are every fourth of 12, not every eighth of 28.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.fine_tuning import LabelSpace, compared
from everclip.modules.slow_reading import Crossing, SlowReading
from everclip.modules.tower_blocks import tower_blocks
from everclip.types import Batch, ClassSet, Positive, Session, as_clips


class SlowFast(Method):
    """Class texts that read clips.

    Args:
        backbone: with access to patches in the joint embedding and to the blocks of a causal text tower.
        every: how many blocks of the text tower come to one that reads, from the first.
        pool: side of the squares of patches that are averaged.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        every: Positive = 4,
        pool: Positive = 2,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(backbone)
        self._blocks = tuple(tower_blocks(backbone, "text")["text"])
        self.layers = range(0, len(self._blocks), every)
        width = self._blocks[0].attn.embed_dim
        self.projector = nn.Sequential(nn.Linear(backbone.embed_dim, width), nn.GELU(), nn.Linear(width, width))
        self.crossings = nn.ModuleList(Crossing(self._blocks[layer]) for layer in self.layers)
        self.pool, self.label_space, self.label_smoothing = pool, label_space, label_smoothing

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = compared(session, self.label_space)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": self.cross_entropy(batch, self.classes, self.label_smoothing)}

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        """By the first template of each class. The tokens of a clip are made once; every class's text reads them."""
        tokens = self.backbone.tokenize(classes.first_prompts()).to(self.backbone.device)

        def classify(images: Tensor) -> Tensor:
            if not len(images):  # of which no shape follows
                return images.new_zeros(0, len(tokens))
            edit = SlowReading(self._blocks, self.crossings, self.layers, self.slow_tokens(images))
            texts = self.backbone.encode_text(tokens.repeat(len(images), 1), edit).unflatten(0, (len(images), -1))
            return self.backbone.logit_scale * similarity(self.encode_image(images)[:, None], texts)[:, 0]

        return classify

    def slow_tokens(self, images: Tensor) -> Tensor:
        """(B, S, D) of pictures or clips: of all frames, in no order that counts."""
        clips = as_clips(images)
        with torch.no_grad():
            patches = self.backbone.encode_patches(clips.flatten(0, 1), normalize=False)
        pooled = F.avg_pool2d(self.projector(patches).movedim(-1, 1), self.pool, ceil_mode=True)
        return pooled.flatten(2).mT.reshape(len(clips), -1, pooled.shape[1])
