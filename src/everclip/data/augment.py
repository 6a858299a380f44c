"""Augmentation of whole batches on their device.

What happens to a picture follows from a key (with the epoch in it) and its number alone, so it does not depend on the
batch a picture is in, on the number of processes, or on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Literal["none", "flip", "crop", "crop_flip"]
SMALLEST_AREA = {"crop": 0.9, "crop_flip": 0.08}  # of a crop, relative to the picture
LONGEST_RATIO = 4 / 3  # of a crop's sides
ATTEMPTS = 10  # at a crop that fits; then the whole picture


def augment(images: Tensor, kind: Augmentation, key: Sequence[int], indices: Tensor) -> Tensor:
    """Flipped, or cropped, resized and flipped pictures.

    Args:
        images: (B, 3, S, S) or clips (B, T, 3, S, S), whose frames are all treated alike; uint8.
        kind: `flip`: mirrored with probability 1/2; `crop`: a rectangle of 90 to 100 % of the area, its sides in a
            ratio between 3/4 and 4/3, resized bilinearly to S (as open_clip trains); `crop_flip`: one of 8 to 100 %
            (the defaults of torchvision's `RandomResizedCrop`), then mirrored with probability 1/2.
        key: numbers that seed the draws.
        indices: (B,) numbers of the pictures in their data set.

    Returns:
        As `images`.
    """
    if kind == "none":
        return images
    if images.ndim == 5:
        return augment(images.flatten(1, 2), kind, key, indices).view_as(images)
    numbers = [np.random.Generator(np.random.PCG64([*key, i])).random(3 + 2 * ATTEMPTS) for i in indices.tolist()]
    draws = torch.from_numpy(np.stack(numbers))
    if kind != "crop":
        mirror = (draws[:, 0] < 0.5).to(images.device)
        images = torch.where(mirror[:, None, None, None], images.flip(-1), images)
    if kind == "flip":
        return images
    boxes = _boxes(draws[:, 1:], SMALLEST_AREA[kind]).to(images.device, torch.float32)
    grid = F.affine_grid(boxes, list(images.shape), align_corners=False)
    cropped = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.round().clamp(0, 255).to(torch.uint8)


def _boxes(draws: Tensor, smallest: float) -> Tensor:
    """Rectangles inside the picture as affine maps (B, 2, 3), from numbers (B, 2 + 2 * ATTEMPTS) between 0 and 1."""
    place, (areas, ratios) = draws[:, :2], draws[:, 2:].chunk(2, dim=1)
    area = smallest + (1 - smallest) * areas
    ratio = LONGEST_RATIO ** (2 * ratios - 1)
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=-1)  # (B, ATTEMPTS, 2): width, height
    fits = (sides <= 1).all(dim=-1)
    first = sides[torch.arange(len(sides)), fits.int().argmax(dim=1)]
    size = torch.where(fits.any(dim=1, keepdim=True), first, torch.ones_like(first))
    return torch.cat([torch.diag_embed(size), ((1 - size) * (2 * place - 1))[:, :, None]], dim=2)
