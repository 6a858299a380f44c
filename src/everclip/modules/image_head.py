"""What turns the output of an adapted image tower into logits: text features, or a linear layer that is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit
from everclip.modules.class_rows import ClassRows
from everclip.types import ClassSet


class LinearHead(nn.Module):
    """A linear layer with bias on the features (B, D) before the projection, growing by rows as classes arrive.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classes = ClassRows(width + 1, trainable=True)

    def append(self, classes: ClassSet) -> None:
        """Adds rows for new classes, uniform as in `nn.Linear`."""
        width = self.classes.rows.shape[1]
        self.classes.append(classes, torch.empty(len(classes), width).uniform_(-1, 1) / (width - 1) ** 0.5)

    def rows(self, classes: ClassSet) -> Tensor:
        """Weights and, in the last column, biases (len(classes), D + 1), in the order of `classes`."""
        return self.classes.of(classes)


def head_features(backbone: Backbone, images: Tensor, edit: TokenEdit, head: LinearHead | None) -> Tensor:
    """What the rows of classes are multiplied with.

    Without a `head` normalised features (B, E), for text features; with one (B, D + 1), the last column 1 for the bias.
    """
    if head is None:
        return backbone.encode_image(images, edit)
    return F.pad(backbone.encode_image(images, edit, normalize=False, project=False), (0, 1), value=1.0)
