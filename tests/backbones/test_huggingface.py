"""The form of Hugging Face's `CLIPModel`, written and read.

tests/golden/huggingface.json holds what transformers computes from the folders that are written here, so that they are
compared with it where it is not installed; `--remake-golden` with it writes them anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor

from everclip.backbones.huggingface import read_preparation
from everclip.backbones.huggingface_dir import huggingface_dir, read_features
from everclip.backbones.open_clip import OpenClip
from everclip.digest import json_sha256, state_sha256
from everclip.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface.json"
TEXTS = ["a photo of a striped red star.", "It's   a RING,\nor café no. 12!", "ring"]
SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "mlp_ratio": 3.0},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
}
PREPARED = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "resize_mode": "squash"}
ACTIVATIONS = [pytest.param(True, id="quick_gelu"), pytest.param(False, id="gelu")]


def model(place: Path, config: dict[str, Any], prepared: dict[str, Any] | None = None) -> OpenClip:
    """Of weights that are the same on every machine."""
    file = place / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": prepared or {}}))
    backbone, generator = OpenClip(model=str(file), weights="random"), np.random.RandomState(0)
    for _, value in sorted(backbone.model.state_dict().items()):
        value.copy_(torch.as_tensor(generator.random_sample(tuple(value.shape)) - 0.5))
    return backbone


def images() -> Tensor:
    return torch.from_numpy(np.random.RandomState(1).random_sample((3, 3, 32, 32)) * 4 - 2).float()


def write(backbone: OpenClip, place: Path) -> dict[str, bytes]:
    files = huggingface_dir(backbone)
    for name, content in files.items():
        (place / name).write_bytes(content)
    return files


def digest(files: dict[str, bytes]) -> dict[str, str]:
    """Of what each file says; that of the tensors does not depend on how safetensors orders them."""
    return {
        name: state_sha256(load(content))
        if name.endswith(".safetensors")
        else json_sha256(json.loads(content))
        if name.endswith(".json")
        else hashlib.sha256(content).hexdigest()
        for name, content in sorted(files.items())
    }


@torch.no_grad()
def in_transformers(place: Path) -> dict[str, Any]:
    """What transformers makes of a folder: tokens, features of length 1, the scale of logits."""
    transformers = pytest.importorskip("transformers", minversion="5.0")
    clip = transformers.CLIPModel.from_pretrained(place).eval()
    tokens = transformers.CLIPTokenizer.from_pretrained(place)(TEXTS, padding=True, return_tensors="pt")
    found = clip(pixel_values=images(), **tokens)
    return {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "tokens": tokens["input_ids"].tolist(),
        "images": found.image_embeds.tolist(),
        "texts": found.text_embeds.tolist(),
        "logits": found.logits_per_image.tolist(),
    }


@torch.no_grad()
def compare(backbone: OpenClip, theirs: dict[str, Any]) -> None:
    tokens = backbone.tokenize(TEXTS)
    for own, row in zip(tokens.tolist(), theirs["tokens"], strict=True):
        end = own.index(49407) + 1
        assert own[:end] == row[:end]
        assert set(row[end:]) <= {49407}
    features = backbone.encode_image(images()), backbone.encode_text(tokens)
    logits = backbone.logit_scale * features[0] @ features[1].T
    for name, found in zip(("images", "texts", "logits"), (*features, logits), strict=True):
        torch.testing.assert_close(found, torch.tensor(theirs[name]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("quick", ACTIVATIONS)
def test_features_are_those_of_transformers(tmp_path: Path, request: pytest.FixtureRequest, quick: bool) -> None:
    backbone = model(tmp_path, SMALL | {"quick_gelu": quick})
    files, key = write(backbone, tmp_path), request.node.callspec.id
    if request.config.getoption("--remake-golden"):
        known = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
        known[key] = {"files": digest(files)} | in_transformers(tmp_path)
        GOLDEN.write_text(json.dumps(known) + "\n")
    theirs = json.loads(GOLDEN.read_text())[key]
    assert digest(files) == theirs["files"], "what is written has changed: --remake-golden, with transformers installed"
    compare(backbone, theirs)


@pytest.mark.parametrize("quick", ACTIVATIONS)
def test_features_are_those_of_transformers_as_installed(tmp_path: Path, quick: bool) -> None:
    pytest.importorskip("transformers", minversion="5.0")
    backbone = model(tmp_path, SMALL | {"quick_gelu": quick})
    write(backbone, tmp_path)
    compare(backbone, in_transformers(tmp_path))


@pytest.mark.parametrize("changed", [{"quick_gelu": False}, {"custom_text": True}], ids=["gelu", "custom_text"])
def test_a_folder_is_read_as_the_model_it_was_written_of(tmp_path: Path, changed: dict[str, Any]) -> None:
    backbone = model(tmp_path, SMALL | changed, PREPARED)
    files = write(backbone, tmp_path)
    with torch.no_grad():
        expected = backbone.encode_image(images()), backbone.encode_text(backbone.tokenize(TEXTS))
        for found, own in zip(read_features(tmp_path, images(), TEXTS), expected, strict=True):
            torch.testing.assert_close(found, own, rtol=0, atol=1e-6)
    old = load(files["model.safetensors"]) | {"text_model.embeddings.position_ids": torch.arange(20)[None]}
    save_file(old, tmp_path / "old.safetensors")
    read = OpenClip(model=str(tmp_path / "config.json"), weights=str(tmp_path / "old.safetensors"))
    assert read.preprocess == backbone.preprocess
    assert digest(huggingface_dir(read)) == digest(files)


def test_a_preparation_says_what_it_leaves_out() -> None:
    published = {"size": 224, "resample": 3, "image_mean": [0.5, 0.5, 0.5], "do_center_crop": True}
    assert read_preparation(published) == {
        "mean": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    assert read_preparation({}) == {"interpolation": "bicubic", "resize_mode": "shortest"}


@pytest.mark.parametrize(
    ("part", "changed", "reason"),
    [
        pytest.param("vision_cfg", {"pool_type": "avg"}, r"its vision_cfg\.pool_type is avg", id="pooling"),
        pytest.param("vision_cfg", {"attentional_pool": True}, r"it holds visual\.attn_pool\.", id="attention_pooling"),
        pytest.param("vision_cfg", {"layers": [1, 1, 1, 1]}, r"it holds visual\.\S+", id="convolutions"),
        pytest.param("text_cfg", {"no_causal_mask": True}, r"its text_cfg\.no_causal_mask is True", id="mask"),
        pytest.param("text_cfg", {"ls_init_value": 0.1}, r"it holds transformer\.resblocks\.0\.ls_1", id="layer_scale"),
        pytest.param("text_cfg", {"norm_kwargs": {"eps": 0.1}}, r"its text_cfg\.norm_kwargs is", id="epsilon"),
    ],
)
def test_other_architectures_are_refused(tmp_path: Path, part: str, changed: dict[str, Any], reason: str) -> None:
    backbone = model(tmp_path, SMALL | {part: SMALL[part] | changed})
    with pytest.raises(ConfigError, match=f"no form of Hugging Face's CLIPModel: {reason}"):
        huggingface_dir(backbone)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda c: c["text_config"].update(hidden_act="gelu"), "hidden_act gelu, quick_gelu", id="two"),
        pytest.param(lambda c: c["vision_config"].update(layer_norm_eps=1e-6), "layer_norm_eps is not 1e-05", id="eps"),
        pytest.param(lambda c: c["vision_config"].update(num_attention_heads=0), "division", id="heads"),
        pytest.param(lambda c: c.update(vision_config=None), "", id="none"),
    ],
)
def test_a_configuration_that_is_not_computed_here_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    text = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "clip", "text_config": text, "vision_config": {}}
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"describes no open_clip model: of Hugging Face's CLIP, .*{reason}"):
        OpenClip(model=str(tmp_path / "config.json"), weights="random", load=False)
