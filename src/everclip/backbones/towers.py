"""What open_clip's towers are built of."""

from __future__ import annotations

from typing import Any

from torch import nn

from everclip.backbones.base import Tower


def ends_linearly(visual: Any) -> bool:
    """Whether a tower is a trunk (of timm) and a linear head, if it has any behind the trunk's own."""
    return hasattr(visual, "trunk") and all(isinstance(part, nn.Linear | nn.Dropout) for part in visual.head)


def tower_size(module: Any) -> Tower | None:
    """Size of a tower built of open_clip's own blocks, None for timm trunks and convolutional towers."""
    blocks = getattr(getattr(module, "transformer", None), "resblocks", None)
    if blocks is None:
        return None
    return Tower(width=blocks[0].ln_1.normalized_shape[0], layers=len(blocks), heads=blocks[0].attn.num_heads)
