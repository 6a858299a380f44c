"""The models shipped with Everclip: their open_clip configurations and their weights.

`everclip-tiny.safetensors` is made by `scripts/pretrain_tiny.py`. Weights are stored as float16. Of the token embedding
only the rows of words seen in pre-training are stored; the others are the values the pre-training began with, which
come from a fixed random stream.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ASSETS = Path(str(files("everclip"))) / "assets"
EMBEDDING = "token_embedding.weight"
ROWS = "token_embedding.rows"


def weights_path(model: str) -> Path:
    """Where the embedded weights of `model` are, whether they exist or not."""
    return ASSETS / f"{model}.safetensors"


def register_configs() -> None:
    """Makes the embedded model configurations known to open_clip; calling it again changes nothing."""
    if not set(open_clip.list_models()).issuperset(path.stem for path in ASSETS.glob("*.json")):
        open_clip.add_model_config(ASSETS)


def initial_embedding(rows: int, width: int) -> Tensor:
    """Token embedding (rows, width) before pre-training: uniform with standard deviation 0.02."""
    stream = np.random.Generator(np.random.PCG64(49408))
    values = stream.random((rows, width), dtype=np.float32)
    return torch.from_numpy((values - 0.5) * (0.02 * 12**0.5))


def save_weights(model: str, state: dict[str, Tensor], tokens: Tensor, made_by: dict[str, str]) -> None:
    """Writes the weights file.

    Args:
        model: name of the open_clip configuration.
        state: the whole state dict.
        tokens: (K,) ids of the token embedding's rows worth storing.
        made_by: how the weights were made, kept in the file's header.
    """
    small = {name: value.half().contiguous() for name, value in state.items() if name != EMBEDDING}
    small[EMBEDDING] = state[EMBEDDING][tokens].half().contiguous()
    small[ROWS] = tokens.to(torch.int32)
    save_file(small, weights_path(model), metadata=made_by)


def load_weights(model: str) -> dict[str, Tensor]:
    """The whole float32 state dict of an embedded model."""
    state = load_file(weights_path(model))
    rows = state.pop(ROWS).long()
    config = open_clip.get_model_config(model)["text_cfg"]
    embedding = initial_embedding(config["vocab_size"], config["width"])
    embedding[rows] = state.pop(EMBEDDING).float()
    return {EMBEDDING: embedding} | {name: value.float() for name, value in state.items()}
