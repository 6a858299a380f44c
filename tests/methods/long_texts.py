"""The small model, pictures and texts of the golden run of Long-CLIP, drawn as the recipe there says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor

from everclip.backbones.positions import REST, TABLE

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "long_clip_official.json").read_text())


def model_file(folder: Path, length: int) -> str:
    """An open_clip configuration of the model with room for texts of so many tokens."""
    path = folder / f"small_{length}.json"
    text = {"context_length": length, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    vision = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}
    path.write_text(json.dumps({"embed_dim": 48, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}))
    return str(path)


def checkpoint(path: Path, seed: int) -> str:
    """Weights of the model before (seed 0), or in the form that the official code stores."""
    config = json.loads(Path(model_file(path.parent, 77)).read_text())
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in open_clip.CLIP(**config).state_dict().items()}
    if seed:
        shapes[TABLE] = shapes[REST] = (248, 64)
    stream, state = np.random.RandomState(seed), {}
    for name in sorted(shapes):
        value = torch.as_tensor(0.1 * stream.standard_normal(shapes[name]))
        value = torch.tensor(3.0) if name == "logit_scale" else value
        state[name] = (value + ("ln_" in name and name.endswith("weight"))).half().float()
    torch.save(state, path)
    return str(path)


def texts(count: int) -> list[str]:
    """Descriptions of about 200 tokens, the first sentence of each its own."""
    return [
        f"a picture of thing {i}. " + " ".join(f"part {k} has mark {i * k % 7}." for k in range(i % 9, 30))
        for i in range(count)
    ]


def images() -> Tensor:
    """Pictures (40, 3, 16, 16)."""
    return torch.from_numpy(np.random.RandomState(1).standard_normal((40, 3, 16, 16))).float()
