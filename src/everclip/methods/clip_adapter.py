"""CLIP-Adapter: a small bottleneck network on the image feature, mixed with what it reads.

z' = ratio * A(z) + (1 - ratio) * z with A(z) = relu(W_up relu(W_down z)), on features before their length becomes 1;
trained are both matrices (2 E E / 4 values; 131,072 at E = 512), shared by all classes and sessions: new classes bring
texts alone, and a later session moves what earlier ones trained.

Family: behind the towers.
Source: arXiv 2110.04544, official code gaopengcuhk/CLIP-Adapter @ 08d07f8 (clip_adapter.py).
Differs: the paper's second adapter, on texts, is not in the code and not here. The code is made for E = 1024 and leaves
the training to CoOp's framework, whose settings for ImageNet are taken (KaiyangZhou/CoOp @ ff61507); the schedule here
has no first epoch at 1e-5.
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import LabelSpace, compared
from everclip.types import Batch, Positive, Session


class ClipAdapter(Method):
    """A residual adapter of the image feature.

    Args:
        backbone: stays frozen.
        reduction: the bottleneck has E / reduction values.
        ratio: share of the adapter in the feature; 0 is zero-shot CLIP.
        label_space: see `LabelSpace`.
    """

    frozen_images = True
    frozen_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        reduction: Positive = 4,
        ratio: Annotated[float, Field(ge=0, le=1)] = 0.2,
        label_space: LabelSpace = "current",
    ) -> None:
        super().__init__(backbone)
        width = backbone.embed_dim
        self.adapter = nn.Sequential(
            nn.Linear(width, width // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(width // reduction, width, bias=False),
            nn.ReLU(),
        )
        self.ratio = ratio
        self.label_space = label_space

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = compared(session, self.label_space)
        self.text = self.class_features(self.classes)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        features = self.backbone.encode_image(images, normalize=False)
        return F.normalize(self.ratio * self.adapter(features) + (1 - self.ratio) * features, dim=-1)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.backbone.logit_scale * similarity(self.encode_image(batch.images), self.text)
        return {"cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels))}
