"""Prompts of both towers that see each other: a small transformer makes them of learned tokens.

Source: UPT, arXiv 2210.07225, as in BatsResearch/menghini-neurips23-code @ b387624 (models/prompts_models.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def quick_gelu(values: Tensor) -> Tensor:
    """CLIP's activation."""
    return values * torch.sigmoid(1.702 * values)


class UnifiedPrompts(nn.Module):
    """Maps tokens of both towers to a common width, lets them attend, and maps them back.

    As in the code, the tokens stand in pairs: the first of the text tower sees the first of the image tower, and so on.

    Args:
        text_width: of the text tower's tokens.
        vision_width: of the image tower's.
        width: common.
    """

    def __init__(self, text_width: int, vision_width: int, width: int = 128) -> None:
        super().__init__()
        self.text_in, self.text_out = nn.Linear(text_width, width), nn.Linear(width, text_width)
        self.vision_in, self.vision_out = nn.Linear(vision_width, width), nn.Linear(width, vision_width)
        self.block = nn.TransformerEncoderLayer(width, 1, 4 * width, 0.0, quick_gelu, norm_first=True)

    def forward(self, text: Tensor, vision: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts of the text tower (1, P, D) and of the image tower (1, P, W), of tokens of these shapes."""
        mixed = self.block(torch.cat([self.text_in(text), self.vision_in(vision)]))
        return self.text_out(mixed[:1]), self.vision_out(mixed[1:])
