"""A folder that `transformers` alone loads: `CLIPModel.from_pretrained(FOLDER)`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save
from torch import Tensor

from everclip.backbones.huggingface import (
    CONFIG,
    EPSILON,
    PREPARATION,
    RESAMPLE,
    TRANSPOSED,
    WEIGHTS,
    names,
    read_config,
)
from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError

START, END = "<|startoftext|>", "<|endoftext|>"


def huggingface_dir(backbone: OpenClip) -> dict[str, bytes]:
    """The content of the folder's files, by name.

    Args:
        backbone: with the parts of its open_clip model and no others.

    Raises:
        ConfigError: `CLIPModel` cannot be what the model is; says by what.
    """
    state = _state(backbone)
    config = _config(backbone)
    _compare(backbone, read_config(config))
    tokenizer = _tokenizer(backbone)
    contents = {CONFIG: config, PREPARATION: _preparation(backbone), **tokenizer}
    files = {name: f"{json.dumps(content, indent=2)}\n".encode() for name, content in contents.items()}
    return {WEIGHTS: save(state, metadata={"format": "pt"}), "merges.txt": _merges(backbone), **files}


def _refusal(backbone: OpenClip, reason: str) -> ConfigError:
    model = backbone.provenance["model"]
    return ConfigError(
        f"{model} has no form of Hugging Face's CLIPModel: {reason}; --format open_clip writes any model"
    )


def _state(backbone: OpenClip) -> dict[str, Tensor]:
    own = {name.removeprefix("text."): value.detach().cpu() for name, value in backbone.model.state_dict().items()}
    known, state = dict(names(len(own))), dict[str, Tensor]()
    for name, value in own.items():
        if name not in known:
            raise _refusal(backbone, f"it holds {name}")
        value = value.T if name in TRANSPOSED else value
        pieces = value.chunk(3) if len(known[name]) == 3 else (value,)
        state |= {other: piece.contiguous().clone() for other, piece in zip(known[name], pieces, strict=True)}
    return state


def _config(backbone: OpenClip) -> dict[str, Any]:
    text = getattr(backbone.model, "text", backbone.model)
    positions = len(text.positional_embedding)
    shared = {
        "hidden_act": "quick_gelu" if backbone.provenance["quick_gelu"] else "gelu",
        "layer_norm_eps": EPSILON,
        "projection_dim": backbone.embed_dim,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": backbone.embed_dim,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": len(text.token_embedding.weight),
            "max_position_embeddings": positions,
            **_tower(text),
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
            **shared,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": backbone.image_size,
            "patch_size": backbone.model.visual.conv1.kernel_size[0],
            **_tower(backbone.model.visual),
            **shared,
        },
    }


def _tower(tower: Any) -> dict[str, int]:
    blocks = tower.transformer.resblocks
    return {
        "hidden_size": blocks[0].ln_1.normalized_shape[0],
        "intermediate_size": blocks[0].mlp.c_fc.out_features,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": blocks[0].attn.num_heads,
    }


def _compare(backbone: OpenClip, read: dict[str, Any]) -> None:
    """Refuses a model of which the configuration that is read back says something else."""
    for part, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        own, back = vars(kind(**backbone.config[part])), vars(kind(**read[part]))
        for name, value in own.items():
            if name != "mlp_ratio" and value != back[name]:  # shapes tell that one
                raise _refusal(backbone, f"its {part}.{name} is {value}")


def _preparation(backbone: OpenClip) -> dict[str, Any]:
    side, prepared = backbone.image_size, backbone.preprocess
    if prepared.resize_mode not in ("shortest", "squash") or prepared.interpolation not in RESAMPLE:
        reason = f"its pictures are resized by resize_mode={prepared.resize_mode}, {prepared.interpolation}"
        raise _refusal(backbone, reason)
    square, shortest = {"height": side, "width": side}, prepared.resize_mode == "shortest"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side} if shortest else square,
        "resample": RESAMPLE[prepared.interpolation],
        "do_center_crop": shortest,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(prepared.mean),
        "image_std": list(prepared.std),
    }


def _tokenizer(backbone: OpenClip) -> dict[str, Any]:
    tokenizer = backbone.tokenizer
    special = dict(zip(tokenizer.all_special_ids, (START, END), strict=True))
    return {
        "vocab.json": {special.get(number, token): number for token, number in tokenizer.encoder.items()},
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": tokenizer.context_length,
            "bos_token": START,
            **dict.fromkeys(("eos_token", "unk_token", "pad_token"), END),
        },
    }


def _merges(backbone: OpenClip) -> bytes:
    return "\n".join(["#version: 0.2", *(" ".join(pair) for pair in backbone.tokenizer.bpe_ranks), ""]).encode()


@torch.no_grad()
def read_features(folder: Path, images: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Features (B, E) and (N, E) of length 1 of the model that is read back from such a folder.

    Args:
        folder: absolute or not.
        images: (B, 3, S, S), normalised.
        texts: any number.
    """
    read = OpenClip(model=str(folder / CONFIG), weights=str(folder.absolute() / WEIGHTS))
    return read.encode_image(images), read.encode_text(read.tokenize(texts))
