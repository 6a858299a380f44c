"""How pictures look in training: cut out, resized and mirrored at random.

What happens to a picture follows from a key (with the epoch in it) and its number alone, so it does not depend on the
batch a picture is in, on the number of processes, or on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor

from everclip.types import Prepare

Augmentation = Literal["none", "flip", "crop", "crop_flip", "crop_flip_bicubic", "half_crop_flip"]
CROPS = {
    "crop": (0.9, InterpolationMode.BICUBIC),
    "crop_flip": (0.08, InterpolationMode.BILINEAR),
    "crop_flip_bicubic": (0.08, InterpolationMode.BICUBIC),
    "half_crop_flip": (0.5, InterpolationMode.BICUBIC),
}


@dataclass(frozen=True)
class RandomView:
    """Pictures as one kind of augmentation shows them, see `everclip.types.View`.

    A crop is torchvision's `RandomResizedCrop` of the picture as it is, before any preprocessing, so that its sides
    come in another ratio (3/4 to 4/3) than the picture's.

    Attributes:
        kind: `flip`: prepared as in evaluation, then mirrored with probability 1/2; `crop`: of 90 to 100 % of the area,
            bicubic (as open_clip trains); `crop_flip`: of 8 to 100 %, bilinear (torchvision's defaults), then mirrored
            with probability 1/2; `crop_flip_bicubic`: the same, bicubic (as prompt learners train); `half_crop_flip`:
            the same of 50 to 100 %, bicubic (as adapters of few shots train).
        size: S, of a crop.
        mirrors: whether it is mirrored if the kind is; random numbers are the same.
    """

    kind: Augmentation
    size: int
    mirrors: bool = True

    @property
    def whole(self) -> bool:
        """Whether a picture may be prepared before it is shown."""
        return self.kind not in CROPS

    @property
    def unmirrored(self) -> RandomView:
        """The same without mirroring."""
        return replace(self, mirrors=False)

    def __call__(self, image: Image.Image, prepare: Prepare, stream: np.random.Generator) -> Tensor:
        mirrored = stream.random() < 0.5 and self.mirrors
        if self.whole:
            shown = prepare(image)
        else:
            smallest, way = CROPS[self.kind]
            with _torch_seeded(int(stream.integers(2**63))):
                shown = pil_to_tensor(RandomResizedCrop(self.size, (smallest, 1.0), interpolation=way)(image))
        return shown.flip(-1) if mirrored and self.kind != "crop" else shown


@contextmanager
def _torch_seeded(seed: int) -> Iterator[None]:
    """The generator that torchvision draws from, seeded; as it was afterwards."""
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.default_generator.set_state(before)
