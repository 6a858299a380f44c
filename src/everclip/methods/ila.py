"""ILA: in front of every block, neighbouring frames of a clip are aligned around points that a small network finds.

For each pair of neighbours two points are found, one per frame; what is around them, and what the pair has in common,
is added to both frames, at first nothing. A transformer over the frames follows, and a clip is compared with the texts
of the classes. Trained: these parts, by cross-entropy and by how well a pair agrees around its points (40.5 and 3.2
million values on ViT-B/16). Both towers stay as they are; every session goes on with the same parts.

Family: video.
Source: arXiv 2304.10465; official code Francis-Rings/ILA @ 1a912d9 (models/, utils/optimizer.py, main.py), for
Something-Something branch SSV2 @ 47c93d0 (`separable: false`, with a linear layer for texts).
Differs: in the paper aligned features become a token of their own, in the code they are added to the patches, as here.
The code also adds to texts what a network makes of the clip, which it never trains; that is left out. Texts have the
templates of the sequence, there bare names (`sequence.templates=["{}"]`). `norm: group` and `zero_init` are ours: batch
statistics drift as sessions come. A single picture is a clip of two equal frames.
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
from everclip.losses.global_batch import global_sum
from everclip.losses.similarity import similarity
from everclip.methods.base import Extract, Method
from everclip.modules.alignment import Aligning, Alignment, Norm
from everclip.modules.fine_tuning import LabelSpace, compared
from everclip.modules.frame_integration import FrameIntegration
from everclip.modules.mixing import Mixing
from everclip.modules.tower_blocks import chosen_layers, tower_blocks
from everclip.types import Batch, ParameterGroup, Phase, Positive, Session, as_clips

Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Rates = tuple[float | None, float | None]  # learning rate and weight decay; None: the optimiser's


class Ila(Method):
    """Learnable alignment of neighbouring frames in a frozen image tower.

    Args:
        backbone: stays frozen, with access to the tokens of its image tower, at least 4 by 4 patches.
        layers: numbers of the blocks with an alignment in front, from 0, or negative ones, from the last; None: all.
        channels: of what a pair has in common, a multiple of 16.
        separable: whether the first convolution over a pair is a depthwise and a pointwise one, not a plain one.
        norm: of convolutions, over the `batch` (each process its own, until a session ends) or a `group` of channels.
        integration_layers: blocks of the transformer over frames.
        num_frames: that it has positions for; clips of other lengths read between them.
        zero_init: begin with a transformer that gives the mean over frames.
        cosine_weight: of one minus the cosine between the aligned features of a pair, added up over blocks.
        spread: in training, masks are means over points so far around (a picture ends at 1).
        spread_epochs: of a session, after which the spread halves with every one.
        skip_lr: learning rate of the layers that add what is aligned; None: the optimiser's, as for all others.
        skip_decay: their weight decay; None: the optimiser's.
        integration_lr: learning rate of the transformer over frames; None: the optimiser's.
        integration_decay: its weight decay; None: the optimiser's.
        mixup: see `Mixing`.
        cutmix: see `Mixing`.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.

    Raises:
        ValueError: a tower or channels that do not fit.
    """

    moving = True
    frozen_texts = True
    epoch: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Annotated[Sequence[int], Field(min_length=1)] | None = None,
        channels: Positive = 256,
        separable: bool = True,
        norm: Norm = "batch",
        integration_layers: Positive = 1,
        num_frames: Positive = 8,
        zero_init: bool = False,
        cosine_weight: Weight = 1.0,
        spread: Weight = 0.2,
        spread_epochs: Annotated[int, Field(ge=0)] = 30,
        skip_lr: Rate | None = None,
        skip_decay: Weight | None = None,
        integration_lr: Rate | None = None,
        integration_decay: Weight | None = None,
        mixup: Weight = 0.8,
        cutmix: Weight = 1.0,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ) -> None:
        super().__init__(backbone)
        if channels % 16:
            raise ValueError(
                f"method.channels={channels}: halves of it are divided into 8 groups; use a multiple of 16"
            )
        blocks = tower_blocks(backbone, "vision")["vision"]
        width = blocks[0].ln_1.normalized_shape[0]
        self.alignments = nn.ModuleDict(
            {
                str(layer): Alignment(width, channels, separable, norm)
                for layer in chosen_layers(layers, len(blocks), "vision")
            }
        )
        self.integration = FrameIntegration(backbone.embed_dim, num_frames, integration_layers, zero_init)
        self.cosine_weight = cosine_weight
        self.spread, self.spread_epochs = spread, spread_epochs
        self.skip_rates: Rates = (skip_lr, skip_decay)
        self.integration_rates: Rates = (integration_lr, integration_decay)
        self.mixing = Mixing(mixup, cutmix)
        self.by_batch = norm == "batch"
        self.couples_batch = self.by_batch or self.mixing.acts
        self.label_space, self.label_smoothing = label_space, label_smoothing
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))  # of the session

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = compared(session, self.label_space)
        with torch.no_grad():
            self.texts = self.class_features(self.classes)
        self.epoch.zero_()

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        sorted_out: dict[Rates, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                lr, decay = self._rates(name)
                free = parameter.ndim == 1 or name.endswith("positions")
                sorted_out.setdefault((lr, 0.0 if free else decay), []).append(parameter)
        groups = [ParameterGroup(tuple(found), lr, decay) for (lr, decay), found in sorted_out.items()]
        return (Phase(parameters=tuple(groups)),)

    def _rates(self, name: str) -> Rates:
        """Learning rate and weight decay of a parameter's own."""
        if ".add_" in name:
            return self.skip_rates
        return self.integration_rates if name.startswith("integration.") else (None, None)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        target = F.one_hot(self.classes.columns(batch.labels), len(self.classes)).to(batch.images.dtype)
        images, target = self.mixing(batch.images, target)
        spread = self.spread * 0.5 ** max(0, int(self.epoch) + 1 - self.spread_epochs)
        features, apart = self._read(images, spread)
        logits = self.backbone.logit_scale * similarity(F.normalize(features, dim=-1), self.texts)
        losses = {"cross_entropy": F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)}
        if self.cosine_weight:
            losses["cosine"] = self.cosine_weight * apart.mean()
        return losses

    @override
    def after_epoch(self) -> None:
        self.epoch += 1

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # whose numbers are of this process
                processes = global_sum(torch.ones((), device=self.backbone.device))
                for number in (module.running_mean, module.running_var):
                    assert number is not None  # followed, as usual
                    number.copy_(global_sum(number) / processes)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(self._read(images, 0.0)[0], dim=-1)

    def _read(self, images: Tensor, spread: float) -> tuple[Tensor, Tensor]:
        """Features (B, E) of pictures or clips, of any length, and how far pairs are apart (B, P), over all blocks."""

        def read(clips: Tensor) -> tuple[Tensor, Tensor]:
            count, frames = clips.shape[:2]
            edit = Aligning(self.alignments, frames, spread)
            features = self.backbone.encode_image(clips.flatten(0, 1), edit, normalize=False)
            return self.integration(features.unflatten(0, (count, frames))), torch.stack(edit.apart).sum(dim=0)

        clips = as_clips(images)
        clips = clips.expand(-1, 2, -1, -1, -1) if clips.shape[1] == 1 else clips
        features, apart = read(clips) if self.by_batch else in_pieces(self.backbone, read, clips)
        return features, apart
