"""Batches whose pictures are mixed with one another: each is then partly of two classes.

Source: arXiv 1710.09412 (mixup), 1905.04899 (cutmix), as in muzairkhattak/ViFi-CLIP @ e2d1948, datasets/blending.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta

Mixed = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Mixing:
    """Mixes every batch in one of two ways, by one draw for all of its pictures. Each process draws for its share.

    Attributes:
        mixup: parameter of the Beta distribution that shares are drawn from; 0: never.
        cutmix: as `mixup`, whose turn it is in half of the batches; 0: never.
    """

    mixup: float
    cutmix: float

    @property
    def acts(self) -> bool:
        """Whether anything is ever mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, images: Tensor, targets: Tensor) -> Mixed:
        """Pictures or clips (B, ..., H, W) and their classes' probabilities (B, C), mixed."""
        if not self.acts:
            return images, targets
        cuts = self.cutmix > 0 and (self.mixup == 0 or bool(torch.rand(()) < 0.5))
        alpha = self.cutmix if cuts else self.mixup
        share, partners = float(Beta(alpha, alpha).sample()), torch.randperm(len(images)).to(images.device)
        if not cuts:
            return mixed_up(images, targets, share, partners)
        x, y = (int(torch.randint(side, ())) for side in (images.shape[-1], images.shape[-2]))
        return cut_out(images, targets, share, partners, (x, y))


def mixed_up(images: Tensor, targets: Tensor, share: float, partners: Tensor) -> Mixed:
    """Means of each picture, which weighs `share`, and its partner, numbered in `partners` (B,); of targets too."""
    return images.lerp(images[partners], 1 - share), targets.lerp(targets[partners], 1 - share)


def cut_out(images: Tensor, targets: Tensor, share: float, partners: Tensor, centre: tuple[int, int]) -> Mixed:
    """Pictures with a rectangle of their partners', numbered in `partners` (B,), in all frames; targets by the area.

    The rectangle has `1 - share` of the area where it does not reach beyond the picture, and its centre at x, y.
    """
    height, width = images.shape[-2:]
    ratio = (1 - share) ** 0.5
    (left, right), (top, bottom) = (
        (max(0, at - int(side * ratio) // 2), min(side, at + int(side * ratio) // 2))
        for at, side in zip(centre, (width, height), strict=True)
    )
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partners][..., top:bottom, left:right]
    return mixed, targets.lerp(targets[partners], (right - left) * (bottom - top) / (height * width))
