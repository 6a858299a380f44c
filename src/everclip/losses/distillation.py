"""Distillation between two models, and the distance between two sets of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.losses.global_batch import global_rows
from everclip.losses.similarity import similarity


def distillation(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy (scalar) of the student's softened distribution under the teacher's, times T squared.

    The smallest value, reached where both agree, is T squared times the entropy of the teacher's distribution.

    Args:
        student: logits (N, C); the mean is over the rows.
        teacher: logits (N, C) without gradient.
        temperature: T, by which both are divided.

    Source: arXiv 1503.02531 section 2; `distillation` of Thunderbeee/ZSCL @ b96e714.
    """
    target = (teacher / temperature).softmax(dim=1)
    return temperature**2 * F.cross_entropy(student / temperature, target)


def image_text_distillation(
    student: Tensor,
    teacher: Tensor,
    texts: Tensor,
    known_texts: Tensor | None = None,
    *,
    scale: Tensor,
    indices: Tensor,
    temperature: float,
    image_weight: float,
    text_weight: float,
) -> dict[str, Tensor]:
    """Weighted distillation of image-text similarities in both directions, over the batch of all processes.

    `image_distillation` compares distributions over the texts, one per picture; `text_distillation` those over the
    pictures of the batch, one per text.

    Args:
        student: features (B, E) of B pictures.
        teacher: the same by the teacher.
        texts: features (M, E) that they are compared with, the same on all processes.
        known_texts: those that the teacher compares with; None: the same.
        scale: of the similarities.
        indices: (B,) of the pictures, see `global_rows`.
        temperature: of both directions.
        image_weight: of `image_distillation`.
        text_weight: of `text_distillation`.

    Source: arXiv 2303.06628 equations 3 and 4 (Thunderbeee/ZSCL @ b96e714, mtil/src/models/finetune.py).
    """
    student, teacher = global_rows(indices, student, teacher)
    own = scale * similarity(student, texts)
    known = scale * similarity(teacher, texts if known_texts is None else known_texts)
    return {
        "image_distillation": image_weight * distillation(own, known, temperature),
        "text_distillation": text_weight * distillation(own.T, known.T, temperature),
    }


def squared_distance(parameters: Sequence[Tensor], anchors: Sequence[Tensor]) -> Tensor:
    """Sum (scalar) over all values of the squared difference of two lists of tensors of the same shapes.

    Source: arXiv 2303.06628 equation 5, there called weight constraint; `l2_loss` of Thunderbeee/ZSCL @ b96e714.
    """
    # Keeps no difference for the backward pass, where towers would be held once more.
    terms = [F.mse_loss(p, a, reduction="sum") for p, a in zip(parameters, anchors, strict=True)]
    return torch.stack(terms).sum()
