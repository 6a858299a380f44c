"""EZ-CLIP: frames of a clip tell each other what they show by one token more in every attention of frozen CLIP.

A block's own attention makes these tokens of learned ones and of the means over each frame's tokens, so that motion is
seen where a mean over frames sees none; a loss asks that features change from frame to frame. Trained: the learned
tokens and adapters in all blocks of both towers (5,204,736 values on ViT-B/16 with 8 frames), by matching the clips of
a batch and the texts of their classes, several of which may be equal. Every session goes on with the same. A later name
is T2L.

Family: video.
Source: arXiv 2312.08010, official code Shahzadnit/EZ-CLIP @ 2f4d622 (clip/model.py, train.py, utils/KLLoss.py).
Differs: no dropout on attention weights. A class is read by the first of its templates in training and by all in
evaluation, where the code draws one of sixteen and averages probabilities; or, as in its published runs, by a
description (`class_texts=file`). First layers of adapters begin without biases. Pictures are cut out as `train.augment`
says, without changes of colour, and frames drawn, where most published runs always show the middle ones; the warm-up
goes in whole epochs. The best epoch on the test clips is not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.pieces import in_pieces
from everclip.losses.global_batch import global_rows
from everclip.losses.matching import class_matching
from everclip.losses.motion import movement
from everclip.losses.similarity import similarity
from everclip.methods.base import Extract, Method
from everclip.modules.block_parts import Adapter, DropPath
from everclip.modules.fine_tuning import first_template
from everclip.modules.temporal_tokens import AdaptedReading, TemporalTokens
from everclip.modules.tower_blocks import Tower, Towers, adapt_blocks, tower_blocks
from everclip.types import Batch, ClassSet, ClassTexts, Positive, Session, as_clips

Rate = Annotated[float, Field(ge=0, lt=1)]


class EzClip(Method):
    """Temporal tokens, adapters and a loss of motion.

    Args:
        backbone: stays frozen, with access to the tokens of both towers.
        class_texts: the first of a class describes it in place of a template with its name; none: there are templates.
        num_frames: that temporal tokens are learned for, see `TemporalTokens`; None: there are none.
        adapter_ratio: width of an adapter by that of its tower.
        towers: which have adapters.
        motion_weight: of the loss of motion, which pictures do not have.
        prompt_dropout: probability, on learned tokens. Micro-batches draw their own, here and below.
        drop_path: probability that a layer of the last block adds nothing at a position; before, it rises from 0.
    """

    couples_batch = True
    shardable = False  # temporal tokens are made with the weights of blocks
    learns_pairs = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        class_texts: ClassTexts,
        num_frames: Positive | None = 8,
        adapter_ratio: Annotated[float, Field(gt=0)] = 0.25,
        towers: Towers = "both",
        motion_weight: Annotated[float, Field(ge=0)] = 1.0,
        prompt_dropout: Rate = 0.1,
        drop_path: Rate = 0.1,
    ) -> None:
        super().__init__(backbone)
        self.class_texts, self.motion_weight = class_texts, motion_weight
        blocks = tower_blocks(backbone, "both")
        drops = {tower: _rising(drop_path, len(own)) for tower, own in blocks.items()}
        self.adapters = nn.ModuleDict(
            {
                tower: nn.ModuleList(_adapter(block.ln_1.normalized_shape[0], adapter_ratio) for block in own)
                for tower, own in blocks.items()
                if towers in ("both", tower)
            }
        )
        if drop_path:
            blocks = adapt_blocks(backbone, "both")
            for tower, own in blocks.items():
                for block, drop in zip(own, drops[tower], strict=True):
                    block.parts.update({"attention": drop, "mlp": drop})
        self.temporal: TemporalTokens | None = None
        if num_frames is not None:
            self.temporal = TemporalTokens(blocks["vision"], num_frames, prompt_dropout, drops["vision"])

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = first_template(session.classes)
        if session.is_base:
            for module in self.modules():
                if isinstance(module, Adapter | TemporalTokens):
                    module.reset()

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        texts, own = batch.texts, batch.indices
        if texts is None:
            every, own = self._texts(self.classes), batch.labels
            texts = tuple(every[column] for column in self.classes.columns(own).tolist())
        (frames,) = in_pieces(self.backbone, self._read_clips, batch.images)
        videos, words = F.normalize(frames.mean(dim=1), dim=-1), self.encode_text(texts)
        moves = self.motion_weight > 0 and frames.shape[1] > 1
        moved = movement(frames) if moves else frames.new_zeros(len(frames))
        own, videos, words, moved = global_rows(batch.indices, own, videos, words, moved)
        scale = self.backbone.logit_scale
        losses = {"contrastive": class_matching(scale * similarity(videos, words), own)}
        return losses | ({"motion": self.motion_weight / (1 + moved.mean())} if moves else {})

    def _texts(self, classes: ClassSet) -> tuple[str, ...]:
        """The text (C of them) that each class is trained by."""
        if self.class_texts.texts:
            return tuple(own[0] for own in self.class_texts.of(classes))
        return classes.first_prompts()

    def _adapters_of(self, tower: Tower) -> Sequence[nn.Module]:
        return list(self.adapters[tower].children()) if tower in self.adapters else []

    def _read_clips(self, images: Tensor) -> tuple[Tensor]:
        """Features (B, T, E) of the frames of clips, or of pictures, of any length."""
        clips = as_clips(images)
        edit = AdaptedReading(self._adapters_of("vision"), self.temporal, clips.shape[1])
        features = self.backbone.encode_image(clips.flatten(0, 1), edit, normalize=False)
        return (features.unflatten(0, clips.shape[:2]),)

    def _read_texts(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.backbone.encode_text(tokens, AdaptedReading(self._adapters_of("text"))),)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        (frames,) = in_pieces(self.backbone, self._read_clips, images)
        return F.normalize(frames.mean(dim=1), dim=-1)

    @override
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        (features,) = in_pieces(self.backbone, self._read_texts, self.backbone.tokenize(texts).to(self.backbone.device))
        return features

    @override
    def class_features(self, classes: ClassSet) -> Tensor:
        return self.encode_text(self._texts(classes)) if self.class_texts.texts else super().class_features(classes)


def _adapter(width: int, ratio: float) -> Adapter:
    return Adapter(width, max(1, int(width * ratio)), "output")


def _rising(last: float, count: int) -> list[DropPath]:
    return [DropPath(rate) for rate in torch.linspace(0, last, count).tolist()]
