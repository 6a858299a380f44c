from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from everclip.backbones import embedded
from everclip.backbones.insertion import TokenEdit, replace_modules
from everclip.backbones.open_clip import OpenClip
from everclip.backbones.weights import create_meta
from everclip.config.catalogue import option_names
from everclip.config.schema import conf_dir
from everclip.errors import ConfigError, MissingError

TEXTS = ["a photo of a striped red star.", "ring.", "a picture of an outlined gray hexagon."]


@pytest.fixture(scope="module")
def backbone() -> OpenClip:
    return OpenClip(model="everclip-tiny", weights="embedded")


def test_cropped_text_features_equal_open_clips(backbone: OpenClip) -> None:
    with torch.no_grad():
        ours = backbone.encode_text(backbone.tokenize(TEXTS))
        theirs = backbone.model.encode_text(backbone.tokenizer(TEXTS), normalize=True)
    assert backbone.tokenize(TEXTS).shape[1] == 12
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)


def test_an_edit_that_changes_nothing_gives_open_clips_image_features(backbone: OpenClip) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = backbone.encode_image(images, TokenEdit()), backbone.model.encode_image(images, normalize=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)


@pytest.mark.parametrize("naive", [False, True])
def test_features_before_the_projection_and_of_other_tokens(tiny: Callable[[], OpenClip], naive: bool) -> None:
    backbone = tiny()
    backbone.naive = naive
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    visual, edit = backbone.model.visual, TokenEdit()
    outputs = []
    visual.transformer.resblocks[-1].register_forward_hook(lambda module, given, output: outputs.append(output))
    edit.readout = slice(2, 5)
    with torch.no_grad():
        visual(images)
        expected = visual.ln_post(outputs[0])
        class_token = backbone.encode_image(images, normalize=False, project=False)
        several = backbone.encode_image(images, edit, normalize=False, project=False)
        projected = backbone.encode_image(images, edit)
    torch.testing.assert_close(class_token, expected[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(several, expected[:, 2:5].mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(projected, nn.functional.normalize(several @ visual.proj, dim=-1))


class Insert(TokenEdit):
    """Inserts zero tokens before block 1 and notes what it saw."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def before(self, layer: int, tokens: Tensor) -> Tensor:
        self.lengths.append(tokens.shape[1])
        return torch.cat([tokens[:, :1], tokens.new_zeros(len(tokens), 2, tokens.shape[2]), tokens[:, 1:]], 1)


def test_edits_are_called_before_every_block_and_the_read_out_follows(backbone: OpenClip) -> None:
    edit = Insert()
    tokens = backbone.tokenize(TEXTS)
    with torch.no_grad():
        features = backbone.encode_text(tokens, edit)
    assert edit.lengths == [12, 14, 16, 18]
    # The longest text ends at the last position: reading it there must give the same as asking for it alone.
    with torch.no_grad():
        alone = backbone.encode_text(tokens[2:], Insert())
    torch.testing.assert_close(features[2:], alone)


def test_prompts_that_do_not_fit_are_refused(backbone: OpenClip) -> None:
    class Many(TokenEdit):
        def embed(self, tokens: Tensor) -> Tensor:
            return torch.cat([tokens, tokens.new_zeros(len(tokens), 70, tokens.shape[2])], 1)

    with pytest.raises(ConfigError, match=r"82 tokens with prompts, but .* has room for 77"):
        backbone.encode_text(backbone.tokenize(TEXTS), Many())


def test_the_same_texts_are_tokenised_once(tiny: Callable[[], OpenClip]) -> None:
    backbone = tiny()
    first = backbone.tokenize(TEXTS)
    with patch.object(OpenClip, "tokenizer", None):
        assert torch.equal(backbone.tokenize(list(TEXTS)), first)


def test_a_copy_has_the_same_tokenizer(tiny: Callable[[], OpenClip]) -> None:
    backbone = tiny()
    assert deepcopy(backbone).tokenizer is backbone.tokenizer  # to copy it takes longer than to copy the weights


@pytest.mark.parametrize("text", ["", " "])
def test_a_text_without_words_is_refused(backbone: OpenClip, text: str) -> None:
    with pytest.raises(ConfigError, match="has no words"):
        backbone.tokenize([text])


def test_it_stays_frozen_and_in_evaluation_mode(backbone: OpenClip) -> None:
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_preprocessing_in_two_steps_equals_open_clips(backbone: OpenClip) -> None:
    image = Image.effect_noise((70, 50), 80).convert("RGB")
    _, _, transform = open_clip.create_model_and_transforms("everclip-tiny")
    torch.testing.assert_close(backbone.normalize(backbone.resize(image)[None])[0], transform(image))


def test_embedded_weights_know_more_than_random_ones(backbone: OpenClip) -> None:
    from everclip.data.drawing import shapes

    names = shapes.all_class_names()[shapes.HELD_OUT_CLASSES]
    style = shapes.STYLES["cards"]
    pictures = torch.cat(
        [torch.from_numpy(shapes.render(n, 3, seed=0, split=1, style=style)).permute(0, 3, 1, 2) for n in names]
    )
    target = torch.arange(len(names)).repeat_interleave(3)

    def accuracy(model: OpenClip) -> float:
        with torch.no_grad():
            text = model.encode_text(model.tokenize([f"a photo of a {name}." for name in names]))
            return float(((model.encode_image(model.normalize(pictures)) @ text.T).argmax(1) == target).float().mean())

    assert accuracy(backbone) > 0.9
    assert accuracy(OpenClip(model="everclip-tiny", weights="random")) < 0.2


def test_embedded_weights_are_small_and_say_how_they_were_made() -> None:
    from safetensors import safe_open

    path = embedded.weights_path("everclip-tiny")
    assert path.stat().st_size < 6e6
    with safe_open(path, framework="pt") as file:
        made_by = file.metadata()
    assert made_by["script"] == "scripts/pretrain_tiny.py"
    assert "seed=0" in made_by["options"]
    assert int(made_by["seconds"]) < 1800


def test_random_weights_are_the_same_each_time() -> None:
    first, second = (OpenClip(model="everclip-tiny", weights="random") for _ in range(2))
    assert first.provenance["sha256"] == second.provenance["sha256"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_local_file_is_loaded(suffix: str, tmp_path: Path, backbone: OpenClip) -> None:
    path = tmp_path / f"weights{suffix}"
    state = backbone.model.state_dict()
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    loaded = OpenClip(model="everclip-tiny", weights=str(path))
    assert loaded.provenance["sha256"] == backbone.provenance["sha256"]


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(MissingError, match=r"weights\.safetensors is no checkpoint of everclip-tiny"):
        OpenClip(model="everclip-tiny", weights=str(path))


@pytest.mark.parametrize("load", [False, True])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"positional_embedding": torch.zeros(77, 3)}, "text pos_embed width changed"),
        ({"other.weight": torch.zeros(1)}, "positional_embedding is only in one of both"),
        ([1], "no attribute 'items'"),
        ({}, "StopIteration"),
    ],
)
def test_weights_of_another_form_are_refused_in_one_line_also_when_checking(
    load: bool, content: Any, reason: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(MissingError, match=rf"weights\.pt is no checkpoint of everclip-tiny: .*{reason}") as caught:
        OpenClip(model="everclip-tiny", weights=f"{tmp_path}/weights.pt", load=load)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_other_shapes_and_stored_sessions_are_named(tmp_path: Path, backbone: OpenClip) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "run" / "checkpoints" / "session_00.safetensors"
    path.parent.mkdir(parents=True)
    state = {**backbone.model.state_dict(), "ln_final.weight": torch.zeros(3)}
    save_file(state, path)
    with pytest.raises(MissingError, match=r"its ln_final\.weight has the shape \[3\], that of the model \[\d+\]"):
        OpenClip(model="everclip-tiny", weights=str(path), load=False)
    save_file(state, path, metadata={"everclip": "{}"})
    with pytest.raises(MissingError, match=rf"backbone=from_run backbone\.run={tmp_path}/run makes a backbone"):
        OpenClip(model="everclip-tiny", weights=str(path), load=False)


def test_checking_says_which_weights_are_yet_to_be_fetched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for here in (False, True):
        found = str(tmp_path) if here else None
        monkeypatch.setattr("everclip.backbones.weights.try_to_load_from_cache", lambda *_, found=found: found)
        caplog.clear()
        create_meta("ViT-B-32", "laion2b_s34b_b79k")
        assert ("weights laion2b_s34b_b79k of ViT-B-32 are not on this machine" in caplog.text) is not here


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(MissingError, match=r"could not be fetched.*give a file: backbone\.weights="):
        OpenClip(model="ViT-B-32-quickgelu", weights="openai")


def test_libraries_say_nothing_while_a_model_is_made(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def offline(*arguments: object, **options: object) -> None:
        for _ in range(5):
            logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 8s")
        logging.error("Failed to download weights")  # as open_clip does
        raise RuntimeError("no network")

    hub = logging.getLogger("huggingface_hub")
    before = hub.level, list(logging.root.filters)
    with caplog.at_level("INFO"):
        OpenClip(model="everclip-tiny", weights="embedded")
        assert caplog.messages == []
        monkeypatch.setattr("everclip.backbones.weights.is_here", lambda *_: False)
        monkeypatch.setattr(open_clip, "create_model", offline)
        monkeypatch.setattr(logging.root, "handlers", [])
        with pytest.raises(MissingError):
            OpenClip(model="ViT-B-32-quickgelu", weights="openai")
    assert capfd.readouterr().err == ""
    assert (hub.level, logging.root.filters, logging.root.handlers) == (*before, [])


def test_no_tag_is_taken_for_random() -> None:
    with pytest.raises(TypeError, match="weights"):
        OpenClip(model="everclip-tiny")  # type: ignore[call-arg]  # that is the point


@pytest.mark.parametrize("name", sorted({*option_names("backbone")} - {"file", "from_run"}))
def test_every_configured_backbone_exists(name: str) -> None:
    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / "backbone" / f"{name}.yaml"))
    node = SimpleNamespace(**loaded)  # type: ignore[arg-type]  # interpolations stay texts
    weights = {"${backbone.tag}": node.tag, "???": "random"}.get(node.weights, node.weights)
    backbone = OpenClip(model=node.model, weights=weights, tag=node.tag, load=False)
    assert backbone.embed_dim == open_clip.get_model_config(node.model)["embed_dim"]
    assert backbone.resize(Image.new("RGB", (50, 60))).shape == (3, backbone.image_size, backbone.image_size)
    assert next(iter(backbone.model.parameters())).is_meta


def test_a_tower_without_tokens_is_refused_by_name() -> None:
    backbone = OpenClip(model="MobileCLIP2-S0", weights="random", load=False)
    assert backbone.vision is None
    with pytest.raises(ConfigError, match="MobileCLIP2-S0 gives no access to its image tokens"):
        backbone.encode_image(torch.zeros(1, 3, 256, 256), TokenEdit())


def test_replacing_modules_acts(tiny: Callable[[], OpenClip]) -> None:
    backbone = tiny()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = backbone.encode_image(images)
    names = replace_modules(backbone.model, r"visual\..*\.mlp", lambda module: nn.Sequential(module, nn.Dropout(0.0)))
    assert names == [f"visual.transformer.resblocks.{i}.mlp" for i in range(4)]
    assert torch.equal(backbone.encode_image(images), before)
    replace_modules(backbone.model, r"visual\.transformer\.resblocks\.0\.mlp", lambda module: nn.Identity())
    assert not torch.allclose(backbone.encode_image(images), before)
    with pytest.raises(ValueError, match=r"no sub-module of CLIP matches 'visual\.lora'"):
        replace_modules(backbone.model, "visual.lora", lambda module: module)


def test_a_file_is_preprocessed_as_its_tag_says() -> None:
    tagged = OpenClip(model="MobileCLIP2-S0", weights="random", tag="dfndr2b", load=False)
    assert tagged.provenance["mean"] == [0, 0, 0]
    assert tagged.provenance["std"] == [1, 1, 1]
    assert tagged.provenance["interpolation"] == "bilinear"
    with pytest.raises(ConfigError, match=r"backbone\.tag=openai is no tag of MobileCLIP2-S0"):
        OpenClip(model="MobileCLIP2-S0", weights="random", tag="openai", load=False)


def test_a_text_tower_that_is_not_read_at_its_end_keeps_open_clips_forward() -> None:
    backbone = OpenClip(model="coca_ViT-B-32", weights="random", load=False)
    assert backbone.tokenize(["a cat"]).shape[1] > 10  # not cropped
