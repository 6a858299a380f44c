"""The small CLIP and the clips on which official M2-CLIP and ILA were run, outside the project."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from tests.methods.official_clip import values

CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "head_width": 64, "patch_size": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 12},
}
NAMES = ("opening a door", "closing a door", "jumping")
LABELS = torch.tensor([0, 1, 0, 2])


CLIPS = values(1, 4, 3, 3, 16, 16)  # frames in front of channels


def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random weights for the state of an open_clip model, in the order of their names."""
    stream, filled = np.random.RandomState(0), {}
    for name in sorted(state):
        shape = tuple(state[name].shape)
        if name == "token_embedding.weight":  # fewer numbers, the same for every 97th token
            z = 0.5 * stream.standard_normal((97, shape[1]))[np.arange(shape[0]) % 97]
        elif name == "logit_scale":
            z = np.full(shape, math.log(100))
        else:
            z = stream.standard_normal(shape) * (0.1 if name.endswith("embedding") else shape[0] ** -0.5)
            z = 1 + 0.1 * z if "ln_" in name and name.endswith(".weight") else z
        filled[name] = torch.from_numpy(np.asarray(z, np.float64))
    return filled


def make_backbone(folder: Path) -> OpenClip:
    """The small model in float64."""
    path = folder / "everclip-m2-clip.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    backbone = OpenClip(model=path.stem, weights="random").double()
    backbone.model.load_state_dict(weights(backbone.model.state_dict()))
    return backbone


def summary(value: Tensor) -> list[float]:
    """Norm, a product with fixed random numbers, and the first value."""
    flat = value.detach().flatten()
    vector = torch.from_numpy(np.random.RandomState(3).standard_normal(len(flat)))
    return [float(flat.norm()), float(flat @ vector), float(flat[0])]
