"""Pictures of a batch and the texts that they are compared with, as features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everclip.losses.global_batch import global_rows
from everclip.types import Batch, ClassSet

EncodeImage = Callable[[Tensor], Tensor]
EncodeText = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Pairing:
    """Features of the batch of all processes.

    Attributes:
        pictures: (B, E).
        texts: (M, E): the pictures' captions, or the texts of classes.
        own: (B,) which text is each picture's.
    """

    pictures: Tensor
    texts: Tensor
    own: Tensor


def pairing(batch: Batch, classes: ClassSet, encode_image: EncodeImage, encode_text: EncodeText) -> Pairing:
    """What two encoders make of a batch: of its pairs, or of pictures with labels and the texts of `classes`.

    Args:
        batch: normalised.
        classes: among which the labels are; each is read by the first of its templates.
        encode_image: from pictures to features.
        encode_text: from texts to features.
    """
    pictures = encode_image(batch.images)
    if batch.texts is not None:
        pictures, texts = global_rows(batch.indices, pictures, encode_text(batch.texts))
        return Pairing(pictures, texts, torch.arange(len(texts), device=texts.device))
    pictures, own = global_rows(batch.indices, pictures, classes.columns(batch.labels))
    return Pairing(pictures, encode_text(classes.first_prompts()), own)
