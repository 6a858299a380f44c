"""Weights of open_clip models: which are right for a model, and loading them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError

from everclip.backbones import embedded
from everclip.errors import ConfigError, MissingError


def check_weights(model: str, weights: str, tag: str | None, tags: Sequence[str]) -> None:
    """Refuses weights that cannot be right before anything is loaded.

    Raises:
        ConfigError: unknown tag, or QuickGELU weights for a GELU model and the reverse.
        MissingError: a local file that is not there.
    """
    if tag is not None and tag not in tags:
        raise ConfigError(f"backbone.tag={tag} is no tag of {model}; tags: {', '.join(tags) or 'none'}; or null")
    if weights == "embedded":
        if not embedded.weights_path(model).is_file():
            raise ConfigError(f"no embedded weights for backbone.model={model}; give a tag, a file or `random`")
    elif "/" in weights or Path(weights).suffix in (".pt", ".pth", ".bin", ".safetensors"):
        if not Path(weights).is_file():
            raise MissingError(f"backbone.weights={weights}: no such file; give a checkpoint of {model} or a tag")
    elif weights != "random" and weights not in tags:
        raise ConfigError(
            f"backbone.weights={weights} is no tag of {model}; tags: {', '.join(tags) or 'none'}; "
            "a local file or `random` are possible too"
        )
    if tag is None or "timm_model_name" in open_clip.get_model_config(model)["vision_cfg"]:
        return
    wanted = bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False))
    if wanted != bool(open_clip.get_model_config(model).get("quick_gelu", False)):
        other = f"{model}-quickgelu" if wanted else model.removesuffix("-quickgelu")
        raise ConfigError(
            f"weights {tag} were trained with {'QuickGELU' if wanted else 'GELU'} and "
            f"backbone.model={model} is not; use backbone.model={other}"
        )


def create_meta(model: str) -> Any:
    """A model without storage."""
    with torch.device("meta"):
        return open_clip.create_model(model, load_weights=False, device="meta")


def create(model: str, weights: str) -> Any:
    """A model with weights, as `OpenClip` describes them.

    Raises:
        MissingError: a file that is no checkpoint, or weights that cannot be fetched.
    """
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return open_clip.create_model(model)
    if weights == "embedded":
        created = open_clip.create_model(model)
        created.load_state_dict(embedded.load_weights(model))
        return created
    try:
        return open_clip.create_model(model, pretrained=weights)
    except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        if Path(weights).is_file():
            raise MissingError(f"backbone.weights={weights} is no checkpoint of {model}: {error}") from error
        raise MissingError(
            f"weights {weights} of {model} are not in the cache and could not be fetched ({type(error).__name__}); "
            f"on a machine with network run `python -c \"import open_clip; open_clip.create_model('{model}', "
            f"pretrained='{weights}')\"` and copy its Hugging Face cache (HF_HOME), or give a file: "
            "backbone.weights=/path/to/checkpoint.safetensors"
        ) from error
