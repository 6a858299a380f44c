"""RAIL: ridge regression on frozen image features, fused with zero-shot CLIP; closed form, nothing is forgotten.

The adapter is the ridge regression of class indicators on all pictures so far, by a recursion (`primal`, on random ReLU
features) or from kept features (`dual`, with a Gaussian kernel). A picture that zero-shot CLIP takes for a class not
learned yet is left to it; so unseen domains keep their zero-shot accuracy among their own classes. Nothing is trained;
the regression sees pictures as `train.augment` says.

Family: closed form.
Source: arXiv 2406.18868, official code linghan1997/Regression-based-Analytic-Incremental-Learning @ eaac644.
Differs: float64 throughout, where the code keeps state and features in float32; prompts are the sequence's (those of
`xtail` are the code's); a class with fewer pictures than shots gives each once, where the code draws with replacement
until there are as many, and a picture drawn twice weighs double; logits are the code's scores times CLIP's scale, which
changes no prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.ridge import KernelRidge, RecursiveRidge
from everclip.types import ClassSet, Phase, Positive, Session

RIDGE = {"primal": 0.1, "dual": 1e-3}


class Rail(Method):
    """Zero-shot CLIP and a ridge-regression adapter.

    Args:
        backbone: stays frozen.
        form: `primal` keeps a matrix of `hidden_dim` squared and no features; `dual` keeps one feature per picture and
            solves a system of that many equations, for few shots.
        hidden_dim: random features of the primal form; None: 15,000 for a backbone of width 512 or more, in proportion
            for a narrower one.
        gamma: of the dual form's kernel.
        ridge: weight of the penalty; None: 0.1 for `primal`, 0.001 for `dual`, as in the official code.
        adapter_weight: share of the adapter in the scores of pictures that zero-shot CLIP takes for a learned class.
    """

    frozen_images = True
    frozen_texts = True
    ids: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        form: Literal["primal", "dual"] = "primal",
        hidden_dim: Positive | None = 15000,
        gamma: Annotated[float, Field(gt=0)] = 0.1,
        ridge: Annotated[float, Field(gt=0)] | None = None,
        adapter_weight: Annotated[float, Field(ge=0, le=1)] = 0.8,
    ) -> None:
        super().__init__(backbone)
        ridge = RIDGE[form] if ridge is None else ridge
        width = backbone.embed_dim
        hidden_dim = round(15000 * min(1, width / 512)) if hidden_dim is None else hidden_dim
        primal = form == "primal"
        self.adapter = RecursiveRidge(width, hidden_dim, ridge) if primal else KernelRidge(width, gamma, ridge)
        self.adapter_weight = adapter_weight
        self.register_buffer("ids", torch.empty(0, dtype=torch.long))  # of the learned classes, by adapter column

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return ()

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        features, labels = extract(session.train, self.encode_image, as_trained=True)
        self.adapter.fit(features, session.seen.columns(labels), len(session.seen))
        self.ids = torch.tensor(session.seen.ids, device=labels.device)

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`; the adapter says its own."""
        return sum(sizes) * self.ids.itemsize

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        text = self.class_features(classes)
        column = {class_id: column for column, class_id in enumerate(self.ids.tolist())}
        learned = torch.tensor([class_id in column for class_id in classes.ids], device=text.device)
        columns = [column[class_id] for class_id in classes.ids if class_id in column]
        scale = self.backbone.logit_scale

        def classify(images: Tensor) -> Tensor:
            features = self.encode_image(images)
            scores = (scale * similarity(features, text)).softmax(dim=-1)
            if columns:
                adapted = torch.zeros_like(scores)
                adapted[:, learned] = self.adapter(features)[:, columns].to(scores.dtype)
                weight = self.adapter_weight * learned[scores.argmax(dim=-1), None].to(scores.dtype)
                scores = torch.lerp(scores, adapted, weight)
            return scale * scores

        return classify
