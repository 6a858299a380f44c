"""TempMe: low-rank updates of both towers are trained while tokens alike are merged, of frames and then of clips.

Frames of a clip pass the image tower alone at first; later blocks join neighbouring ones, so that attention reaches
over them, and merge what repeats. Trained: an update of queries, keys and values in every block, and vectors for the
frames and pieces that are joined (507,648 values on ViT-B/32 and ViT-B/16 with 12 frames), on whatever a session's
objective asks for. Of pictures, and without joining blocks, tokens are merged as in ToMe.

Family: video.
Source: arXiv 2409.01156 (LunarShen/TempMe @ e624930); merging: arXiv 2210.09461.
Differs: texts have up to 77 tokens instead of 32; a clip shorter than 12 seconds is no longer filled up with black
frames. Training frames are not augmented by RandAugment. The code keeps the model that is best on the test videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.pieces import in_pieces
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace
from everclip.modules.lora import add_low_rank
from everclip.modules.token_merging import TokenMerger
from everclip.types import Positive, as_clips

Share = Annotated[float, Field(ge=0, le=0.5)]


class Tempme(TowerTuning):
    """Merged tokens and low-rank updates of a frozen backbone.

    Args:
        backbone: two towers of plain blocks.
        rank: of each update.
        frames: of a clip.
        layers: blocks that join neighbouring frames, and what these became, to one; negative ones count from the last.
            None of them: tokens are merged in each frame alone, which may then be any number.
        factors: how many become one in each of these; their product divides `frames`.
        tokens: merged in each frame in every block before these.
        clip_share: part of all tokens that is merged as frames are joined.
        image_share: part that is merged in the joining blocks and those behind, once more.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: Positive = 8,
        frames: Positive = 12,
        layers: Sequence[int] = (-4, -3, -2),
        factors: Sequence[Annotated[int, Field(ge=2)]] = (2, 2, 3),
        tokens: Annotated[int, Field(ge=0)] = 2,
        clip_share: Share = 0.3,
        image_share: Share = 0.1,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        updates = add_low_rank(backbone, rank=rank, targets=["qkv"], towers="both")
        assert backbone.vision is not None  # else its blocks take no updates
        merger = TokenMerger(
            backbone.vision,
            frames=frames,
            layers=layers,
            factors=factors,
            tokens=tokens,
            clip_share=clip_share,
            image_share=image_share,
        )
        super().__init__(backbone, label_space, label_smoothing, [*updates, merger])
        self.merger = merger

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        clips = as_clips(images)
        (features,) = in_pieces(self.backbone, self._encode_clips, clips)
        return features

    def _encode_clips(self, clips: Tensor) -> tuple[Tensor]:
        """Features (B, E) of clips (B, T, 3, S, S), the mean of those of their frames' class tokens."""
        count, frames = clips.shape[:2]
        features = self.backbone.encode_image(clips.flatten(0, 1), self.merger.edit(frames))
        return (F.normalize(features.reshape(count, frames, features.shape[-1]).mean(dim=1), dim=-1),)
