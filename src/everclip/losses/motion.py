"""How much features change from frame to frame."""

from __future__ import annotations

import torch
from torch import Tensor


def movement(frames: Tensor) -> Tensor:
    """How much each clip moves (B,): the mean size of central differences plus the mean variance over time.

    Args:
        frames: (B, T, E), features of any length in the order of time; two frames or more.

    Source: arXiv 2312.08010; `Motion_loss` of Shahzadnit/EZ-CLIP @ 2f4d622, utils/KLLoss.py, means of which these are
    the parts.
    """
    padded = torch.cat([frames[:, :1], frames, frames[:, -1:]], dim=1)
    differences = (padded[:, 2:] - padded[:, :-2]).abs() / 2
    return differences.mean(dim=(1, 2)) + frames.var(dim=1).mean(dim=1)
