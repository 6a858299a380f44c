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

Augmentation = Literal["none", "flip", "crop_flip"]
SHORTEST_SIDE = 0.7  # of a crop, relative to the picture


def augment(images: Tensor, kind: Augmentation, key: Sequence[int], indices: Tensor) -> Tensor:
    """Flipped, or cropped, resized and flipped pictures.

    Args:
        images: (B, 3, S, S) uint8.
        kind: `flip`: mirrored with probability 1/2; `crop_flip`: a random square of 70 to 100 % of the side, resized
            bilinearly to S, then mirrored with probability 1/2.
        key: numbers that seed the draws.
        indices: (B,) numbers of the pictures in their data set.

    Returns:
        (B, 3, S, S) uint8.
    """
    if kind == "none":
        return images
    draws = np.stack([np.random.Generator(np.random.PCG64([*key, i])).random(4) for i in indices.tolist()])
    mirror, side, left, top = torch.from_numpy(draws).to(images.device, torch.float32).unbind(dim=1)
    flipped = torch.where((mirror < 0.5)[:, None, None, None], images.flip(-1), images)
    if kind == "flip":
        return flipped
    scale = SHORTEST_SIDE + (1 - SHORTEST_SIDE) * side
    room = 1 - scale
    zero = torch.zeros_like(scale)
    rows = [
        torch.stack(row, dim=1) for row in ((scale, zero, room * (2 * left - 1)), (zero, scale, room * (2 * top - 1)))
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    cropped = F.grid_sample(flipped.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.round().clamp(0, 255).to(torch.uint8)
