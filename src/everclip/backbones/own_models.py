"""Models of a user's own: a configuration file of open_clip or of Hugging Face's CLIP, as `everclip-export` writes."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from everclip.backbones import huggingface
from everclip.backbones.weights import FAULTS, silent, tokenizer_of
from everclip.digest import json_sha256
from everclip.errors import ConfigError, MissingError

PARTS = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}


def names_file(model: str) -> bool:
    """Whether a model is given by its configuration, not by its name."""
    return model.endswith(".json")


def read_model(file: str) -> tuple[str, dict[str, Any]]:
    """Makes a configuration known to open_clip; gives its name there and how pictures are prepared (`preprocess_cfg`).

    Args:
        file: the model's configuration, plain or, with `preprocess_cfg` beside it, under `model_cfg`; or the
            `config.json` of a `CLIPModel`, beside which `preprocessor_config.json` is read.

    Raises:
        MissingError: no such file.
        ConfigError: a file that describes no model of open_clip.
    """
    place = Path(file).expanduser()
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingError(f"backbone.model={file}: no such file; give an open_clip configuration") from error
    except ValueError as error:
        raise _refusal(file, f"it is no JSON ({error})") from error
    if isinstance(content, dict) and content.get("model_type") == "clip":
        try:
            content = huggingface.read_folder(place, content)
        except (*FAULTS, ZeroDivisionError) as error:
            raise _refusal(file, f"of Hugging Face's CLIP, {error}") from error
    model = content.get("model_cfg", content) if isinstance(content, dict) else {}
    if lacking := [part for part, kind in PARTS.items() if not isinstance(model.get(part), kind)]:
        raise _refusal(file, f"it lacks {', '.join(lacking)}")
    preprocess = content.get("preprocess_cfg") or {}
    name = f"{place.stem}-{json_sha256(model)[:8]}"
    if name not in open_clip.list_models():
        _register(name, model)
    try:
        _try(name, preprocess)
    except FAULTS as error:
        raise _refusal(file, " ".join(str(error).split())[:200] or type(error).__name__) from error
    return name, preprocess


def _register(name: str, model: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.json")
        path.write_text(json.dumps(model), encoding="utf-8")
        open_clip.add_model_config(path)


def _try(name: str, preprocess: dict[str, Any]) -> None:
    """Makes a model without storage, its tokens and a picture for it; open_clip checks little before that."""
    with silent(), torch.device("meta"):
        model = open_clip.create_model(name, load_weights=False, device="meta", force_preprocess_cfg=preprocess)
    prepared = PreprocessCfg(**model.visual.preprocess_cfg)
    if not len(prepared.mean) == len(prepared.std) == 3:
        raise ValueError("mean and std must have 3 values")
    image_transform_v2(prepared, is_train=False)(Image.new("RGB", (8, 8)))
    last = int(tokenizer_of(name)(["a picture"]).max())
    if last >= (size := open_clip.get_model_config(name)["text_cfg"].get("vocab_size", last + 1)):
        raise ValueError(f"its tokenizer gives token {last}, beyond vocab_size {size}")


def _refusal(file: str, reason: str) -> ConfigError:
    return ConfigError(
        f"backbone.model={file} describes no open_clip model: {reason}; everclip-export writes such files, with "
        f"{', '.join(PARTS)} under model_cfg"
    )
