"""ProLIP: the projection of the image tower alone is fine-tuned, and held near the pre-trained one.

All pictures of a session in every step, each time as another augmented view shows them; cross-entropy with frozen text
features, and the squared distance to the pre-trained projection. Trained: that matrix (393,216 values on ViT-B/16).
New classes bring text features of their own and train the same matrix on, held to that of the session before, or to
the pre-trained one again (`anchor`), which also pulls back what earlier sessions have learnt.

Family: behind the towers.
Source: arXiv 2410.05270, official code astra-vision/ProLIP @ b43e795 (methods/ProLIP.py).
Differs: learning rate and weight are fixed, as in the paper's comparison without validation pictures; `hparams_search`
chooses them on held-out training pictures. A session's number of shots is its mean number of pictures of a class.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.distillation import squared_distance
from everclip.losses.similarity import similarity
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import LabelSpace, compared
from everclip.modules.tower_blocks import image_projection
from everclip.types import Batch, Phase, Session


class Prolip(Method):
    """Fine-tuning of the image projection.

    Args:
        backbone: its projection is unfrozen in place.
        weight: of the squared distance; None: one divided by the number of shots.
        anchor: the projection that the distance is taken to: the `previous` session's, which in the first one is the
            pre-trained one, or the `pretrained` one always.
        whole_batch: whether every step is on all pictures of the session, as in the paper; else on `train.batch_size`.
        label_space: see `LabelSpace`.
    """

    frozen_images = True
    frozen_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        weight: Annotated[float, Field(ge=0)] | None = None,
        anchor: Literal["previous", "pretrained"] = "previous",
        whole_batch: bool = True,
        label_space: LabelSpace = "current",
    ) -> None:
        super().__init__(backbone)
        self.projection = (image_projection(backbone).requires_grad_(True),)  # part of the state only once
        self.anchors = [projection.detach().clone() for projection in self.projection]
        self.weight = weight
        self.follows = anchor == "previous"
        self.whole_batch = whole_batch
        self.label_space = label_space

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = compared(session, self.label_space)
        self.text = self.class_features(self.classes)
        self.distance_weight = len(session.classes) / len(session.train) if self.weight is None else self.weight
        held_to = self.projection if self.follows else self.anchors
        self.anchors = [anchor.detach().clone().to(self.text.device) for anchor in held_to]

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return (Phase(batch_size=len(session.train) if self.whole_batch else None),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.backbone.logit_scale * similarity(self.encode_image(batch.images), self.text)
        distance = squared_distance(self.projection, self.anchors)
        return {
            "cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels)),
            "distance": self.distance_weight * distance,
        }
