"""What turns the output of an edited image tower into logits: text features, or a linear layer that is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit
from everclip.modules.class_rows import ClassRows
from everclip.types import ClassSet, Session

HeadKind = Literal["text", "linear"]
TextFeatures = Callable[[ClassSet], Tensor]  # one row (C, E) of length 1 per class


class ImageHead(nn.Module):
    """Classes as frozen text features, or as rows of a linear layer with bias that grows as classes arrive.

    The layer reads the features (B, D) before the projection to the joint embedding.

    Args:
        width: D.
        kind: `text` or `linear`.
    """

    def __init__(self, width: int, kind: HeadKind) -> None:
        super().__init__()
        self.linear = ClassRows(width + 1, trainable=True) if kind == "linear" else None
        self.session_rows: Tensor | None = None

    def begin(self, backbone: Backbone, session: Session, text: TextFeatures) -> None:
        """Takes in the classes of a session: texts, read once, or for new ones rows uniform as in `nn.Linear`."""
        if self.linear is None:
            self.session_rows = self.rows(backbone, session.classes, text)
        else:
            rows, width = len(session.new), self.linear.rows.shape[1]
            self.linear.append(session.new, torch.empty(rows, width).uniform_(-1, 1) / (width - 1) ** 0.5)

    def rows(self, backbone: Backbone, classes: ClassSet, text: TextFeatures) -> Tensor:
        """What features are multiplied with: text features times the scale (C, E), or weights and bias (C, D + 1)."""
        return backbone.logit_scale * text(classes) if self.linear is None else self.linear.of(classes)

    def training_rows(self, classes: ClassSet) -> Tensor:
        """`rows` of the classes of the session; texts, which do not change, as `begin` read them."""
        if self.linear is not None:
            return self.linear.of(classes)
        assert self.session_rows is not None  # `begin` read them
        return self.session_rows

    def features(self, backbone: Backbone, images: Tensor, edit: TokenEdit) -> Tensor:
        """What the rows are multiplied with: features (B, E) of length 1, or (B, D + 1), the last column 1."""
        if self.linear is None:
            return backbone.encode_image(images, edit)
        return F.pad(backbone.encode_image(images, edit, normalize=False, project=False), (0, 1), value=1.0)
