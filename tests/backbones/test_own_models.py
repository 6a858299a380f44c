from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import save_file

from everclip.backbones import embedded
from everclip.backbones.open_clip import OpenClip
from everclip.config.build import build
from everclip.errors import ConfigError, MissingError
from everclip.runs.folder import RunFolder

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPARED = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "resize_mode": "squash"}


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_configuration_is_a_model_with_its_preparation_of_pictures(tmp_path: Path) -> None:
    file = write(tmp_path / "open_clip_config.json", {"model_cfg": SMALL, "preprocess_cfg": PREPARED})
    backbone = OpenClip(model=file, weights="random")
    save_file(backbone.model.state_dict(), tmp_path / "open_clip_model.safetensors")
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    theirs.eval()
    picture, texts = Image.effect_noise((70, 50), 80).convert("RGB"), ["a red ring", "a star"]
    images = transform(picture)[None]
    torch.testing.assert_close(backbone.normalize(backbone.resize(picture)[None]), images)
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(texts)
    assert tokens.shape[1] == 40
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode_image(images), theirs.encode_image(images, normalize=True))
        ours = backbone.encode_text(backbone.tokenize(texts))
        torch.testing.assert_close(ours, theirs.encode_text(tokens, normalize=True))
    assert any(isinstance(module, QuickGELU) for module in theirs.modules())
    assert backbone.provenance["quick_gelu"] is True
    assert (backbone.provenance["model"], backbone.provenance["mean"]) == (file, PREPARED["mean"])


def test_two_files_of_one_name_are_two_models(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = write(tmp_path / "ViT-B-32.json", SMALL)
    second = write(tmp_path / "other" / "ViT-B-32.json", SMALL | {"embed_dim": 24})
    models = [OpenClip(model=file, weights="random", load=False) for file in (first, second, first)]
    assert [model.embed_dim for model in models] == [16, 24, 16]
    assert open_clip.get_model_config("ViT-B-32")["embed_dim"] == 512


def test_what_the_file_says_is_part_of_the_models_identity(tmp_path: Path) -> None:
    heads = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "head_width": 8}}  # weights of the same shapes
    contents = [SMALL, {"model_cfg": SMALL}, heads, {"model_cfg": SMALL, "preprocess_cfg": PREPARED}]
    found = [OpenClip(model=write(tmp_path / "m.json", content), weights="random") for content in contents]
    digests = [backbone.provenance["sha256"] for backbone in found]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("{", "it is no JSON", id="no_json"),
        pytest.param([], "it lacks embed_dim, vision_cfg, text_cfg", id="a_list"),
        pytest.param({"model_cfg": SMALL | {"text_cfg": None}}, "it lacks text_cfg", id="no_text"),
        pytest.param(SMALL | {"vision_cfg": {"depth": 3}}, "unexpected keyword argument 'depth'", id="unknown_key"),
        pytest.param(SMALL | {"vision_cfg": {"width": 7, "head_width": 3}}, "divisible", id="impossible"),
        pytest.param({"model_cfg": SMALL, "preprocess_cfg": {"mean": [1]}}, "mean and std must have 3", id="mean"),
        pytest.param({"model_cfg": SMALL, "preprocess_cfg": {"interpolation": "x"}}, "", id="interpolation"),
        pytest.param(
            SMALL | {"text_cfg": SMALL["text_cfg"] | {"vocab_size": 90}},
            "token 49407, beyond vocab_size 90",
            id="words",
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path: Path, content: Any, reason: str) -> None:
    file = write(tmp_path / "model.json", content)
    with pytest.raises(
        ConfigError, match=rf"^backbone\.model={file} describes no open_clip model: .*{reason}"
    ) as caught:
        OpenClip(model=file, weights="random", load=False)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_weights_of_another_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"backbone\.model=nowhere/x\.json: no such file"):
        OpenClip(model="nowhere/x.json", weights="random")
    file, weights = write(tmp_path / "mine.json", SMALL), str(tmp_path / "weights.pt")
    torch.save(embedded.load_weights("everclip-tiny"), weights)
    for load in (False, True):
        with pytest.raises(MissingError, match=r"weights\.pt is no checkpoint of mine-\w{8}: "):
            OpenClip(model=file, weights=weights, load=load)


def test_a_run_notices_another_file_under_its_name(
    run: Callable[..., RunFolder], tmp_path: Path, compose: Callable[..., Any]
) -> None:
    file = write(tmp_path / "mine.json", SMALL)
    words = ("backbone=file", f"backbone.model={file}", "backbone.weights=random", "method=zero_shot", "max_sessions=1")
    folder = run(*words)
    kept = folder.read_run()["weights"]
    assert kept == build("backbone", compose(*words).backbone, load=True).provenance
    write(tmp_path / "mine.json", {**SMALL, "quick_gelu": False})
    with pytest.raises(ConfigError, match=r"weights changed from .* \(.*mine\.json\)"):
        run(*words)
