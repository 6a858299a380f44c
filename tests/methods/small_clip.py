"""A small CLIP with weights by a recipe, in float64, on which official code was run outside the project."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.types import Batch, ClassSet

CONFIG = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
CLASSES = ClassSet(tuple(range(5)), ("apple", "bear", "cat", "dog", "egg"))
LABELS = np.arange(12) % 3
PIXELS = torch.from_numpy(np.random.RandomState(1).standard_normal((16, 3, 16, 16)))  # 12 to train on, 4 to test


def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random weights of these names and shapes."""
    stream = np.random.RandomState(0)
    filled = {}
    for name in sorted(state):
        shape = tuple(state[name].shape)
        z = stream.standard_normal(shape)
        if name == "logit_scale":
            z = np.full(shape, math.log(20))
        elif "ln_" in name and name.endswith("weight"):
            z = 1 + 0.1 * z
        elif name.endswith("bias"):
            z = 0.02 * z
        elif "embedding" in name:
            z = 0.3 * z
        else:
            z = z / math.sqrt(
                shape[0] if "proj" in name.rpartition(".")[2] and len(shape) == 2 else math.prod(shape[1:])
            )
        filled[name] = torch.from_numpy(np.asarray(z))
    return filled


def small_clip(folder: Path) -> OpenClip:
    """The model; its pictures are normalised already."""
    path = folder / "everclip-small.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    made = OpenClip(model="everclip-small", weights="random").double()
    made.model.load_state_dict(weights(made.model.state_dict()))
    return made


def batches(size: int) -> list[Batch]:
    """The training pictures in their order."""
    labels = torch.from_numpy(LABELS)
    return [Batch(PIXELS[i : i + size], labels[i : i + size], torch.arange(i, i + size)) for i in range(0, 12, size)]
