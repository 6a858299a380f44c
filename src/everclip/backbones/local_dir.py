"""A folder that open_clip alone loads: `open_clip.create_model_and_transforms("local-dir:FOLDER")`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from safetensors.torch import save
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.backbones.weights import silent


def local_dir(backbone: OpenClip) -> dict[str, bytes]:
    """The content of the folder's files, by name; provenance stands under `everclip` in the configuration.

    Args:
        backbone: with the parts of its open_clip model and no others.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.model.state_dict().items()}
    config = {
        "model_cfg": backbone.config,  # says whether it has QuickGELU
        "preprocess_cfg": asdict(backbone.preprocess),
        "everclip": backbone.provenance,
    }
    return {
        HF_SAFE_WEIGHTS_NAME: save(state, metadata={"format": "pt"}),
        HF_CONFIG_NAME: (json.dumps(config, indent=2) + "\n").encode(),
    }


@torch.no_grad()
def plain_features(folder: Path, images: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Features (B, E) and (N, E) of length 1 that open_clip computes from such a folder, without anything of Everclip.

    Args:
        folder: absolute or not.
        images: (B, 3, S, S), normalised.
        texts: any number.
    """
    with silent():
        model = open_clip.create_model(f"local-dir:{folder}").eval()
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(texts))
    return model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
