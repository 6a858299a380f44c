"""The form of Hugging Face's `CLIPModel`: names of its tensors and settings, and models of open_clip read from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG, WEIGHTS, PREPARATION = "config.json", "model.safetensors", "preprocessor_config.json"
MARK = "text_model.embeddings.token_embedding.weight"  # every `CLIPModel` has it
EPSILON = 1e-5  # of every LayerNorm of open_clip
RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers

VISION = {"image_size": 224, "patch_size": 32, "hidden_size": 768, "intermediate_size": 3072}
VISION |= {"num_hidden_layers": 12, "num_attention_heads": 12}
TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": 512, "intermediate_size": 2048}
TEXT |= {"num_hidden_layers": 12, "num_attention_heads": 8}

TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
SINGLE = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "token_embedding.weight": MARK,
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
}
NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",  # spelt so
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
BLOCKS = {"visual.transformer.resblocks": "vision_model.encoder.layers"}
BLOCKS |= {"transformer.resblocks": "text_model.encoder.layers"}
PARTS = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


def names(layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each tensor of an open_clip model with towers of so many blocks, and the one or three that stand for it here."""
    for own, other in (SINGLE | TRANSPOSED).items():
        yield own, (other,)
    modules = NORMS | {
        f"{own}.{layer}.{part}": f"{other}.{layer}.{PARTS[part]}"
        for own, other in BLOCKS.items()
        for layer in range(layers)
        for part in PARTS
    }
    for kind in ("weight", "bias"):
        for own, other in modules.items():
            yield f"{own}.{kind}", (f"{other}.{kind}",)
        for own, other in BLOCKS.items():
            for layer in range(layers):
                stacked = tuple(f"{other}.{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
                yield f"{own}.{layer}.attn.in_proj_{kind}", stacked


def read_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an open_clip model from that of a `CLIPModel`; tensors of other names keep them."""
    rest, found = {name: value for name, value in state.items() if not name.endswith(".position_ids")}, {}
    for own, others in names(sum(name.endswith(".layer_norm1.bias") for name in state)):
        if all(other in rest for other in others):
            pieces = [rest.pop(other) for other in others]
            value = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
            found[own] = value.T if own in TRANSPOSED else value
    return found | rest


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The open_clip configuration of a `CLIPModel`'s.

    Raises:
        ValueError: one that open_clip cannot compute.
    """
    vision, text = VISION | config.get("vision_config", {}), TEXT | config.get("text_config", {})
    activations = {part.get("hidden_act", "quick_gelu") for part in (vision, text)}
    if not (len(activations) == 1 and activations <= {"quick_gelu", "gelu"}):
        raise ValueError(f"hidden_act {', '.join(sorted(activations))}; both towers have one of quick_gelu, gelu")
    if any(part.get("layer_norm_eps", EPSILON) != EPSILON for part in (vision, text)):
        raise ValueError(f"layer_norm_eps is not {EPSILON}")
    return {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            **_size(vision),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "heads": text["num_attention_heads"],
            **_size(text),
        },
    }


def _size(part: Mapping[str, Any]) -> dict[str, Any]:
    width = part["hidden_size"]
    return {"width": width, "layers": part["num_hidden_layers"], "mlp_ratio": part["intermediate_size"] / width}


def read_preparation(content: Mapping[str, Any]) -> dict[str, Any]:
    """How pictures are prepared, as open_clip's `preprocess_cfg`, from that of a `CLIPImageProcessor`."""
    size = content.get("size")
    shortest = not isinstance(size, dict) or "shortest_edge" in size
    kinds = {number: name for name, number in RESAMPLE.items()}
    found = {"mean": content.get("image_mean"), "std": content.get("image_std")}
    found |= {
        "interpolation": kinds.get(content.get("resample", 3)),
        "resize_mode": "shortest" if shortest else "squash",
    }
    return {name: value for name, value in found.items() if value is not None}


def read_folder(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a `CLIPModel`'s folder as an open_clip configuration with its preparation of pictures.

    Args:
        file: the model's configuration.
        config: its content.

    Raises:
        ValueError: a model that open_clip cannot compute, or a preparation that is no JSON.
        OSError: a preparation that cannot be read.
    """
    beside = file.with_name(PREPARATION)
    preparation = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    return {"model_cfg": read_config(config), "preprocess_cfg": read_preparation(preparation)}
