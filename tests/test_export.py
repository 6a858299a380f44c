"""What a run has adapted as plain weights: for open_clip alone, and as the backbone of the next run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import open_clip
import pytest
import torch
import yaml
from open_clip.transformer import QuickGELU
from PIL import Image
from torch import Tensor

import everclip
from everclip.backbones.insertion import replace_modules
from everclip.backbones.open_clip import OpenClip
from everclip.commands.export import main
from everclip.commands.from_run import folded, from_run
from everclip.commands.load import AdaptedModel
from everclip.errors import ConfigError, MissingError
from everclip.methods.base import Method
from everclip.methods.conpet import Conpet
from everclip.methods.cpe_clip import CpeClip
from everclip.methods.icarl import Icarl
from everclip.methods.zero_shot import ZeroShot
from everclip.reporting.model_card import model_card
from everclip.runs.folder import RunFolder
from tests.conftest import METHODS

Run = Callable[..., RunFolder]
Finished = Callable[..., RunFolder]
TEXTS = ["a photo of a striped red star.", "ring.", "a picture of an outlined gray hexagon."]


def pictures() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 40, 52, 3), generator=generator).to(torch.uint8)
    return [Image.fromarray(values.numpy()) for values in noise]


@torch.no_grad()
def features_in_open_clip(folder: Path) -> tuple[Tensor, Tensor]:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert isinstance(model.visual.transformer.resblocks[0].mlp[1], QuickGELU)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    images = torch.stack([transform(picture) for picture in pictures()])
    model.eval()
    return model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)


def features_of(model: AdaptedModel) -> tuple[Tensor, Tensor]:
    return model.encode_image(pictures()), model.encode_text(TEXTS)


@pytest.mark.parametrize("method", [p for p in METHODS if p.values[0] in ("finetune", "lora", "wise_ft")])
def test_open_clip_alone_computes_the_features_of_a_run(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    run, output = finished(f"method={method}"), tmp_path / "exported"
    assert main([str(run.path), "--output", str(output)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    for found, expected in zip(features_in_open_clip(output), features_of(everclip.load(run.path)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-6)
    as_backbone = OpenClip(model="everclip-tiny", weights=str(output / "open_clip_model.safetensors"))
    assert as_backbone.provenance["sha256"] == from_run(run=str(run.path)).provenance["sha256"]
    own = OpenClip(model=str(output / "open_clip_config.json"), weights=str(output / "open_clip_model.safetensors"))
    model, images = everclip.load(run.path), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(own.encode_image(images), model.method.encode_image(images), rtol=0, atol=3e-6)
        texts = own.encode_text(own.tokenize(TEXTS))
    torch.testing.assert_close(texts, features_of(model)[1], rtol=0, atol=3e-6)
    for fact in ("quick_gelu", "mean", "std", "interpolation"):
        assert own.provenance[fact] == as_backbone.provenance[fact]


@pytest.mark.xdist_group("lora")
def test_a_session_is_exported_into_the_run_folder(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(copytree(finished("method=lora").path, tmp_path / "run"))
    assert main([str(folder), "--session", "0"]) == 0
    found = features_in_open_clip(folder / "export" / "session_00")
    torch.testing.assert_close(found, features_of(everclip.load(folder, 0)), rtol=0, atol=3e-6)
    assert (found[0] - everclip.load(folder).encode_image(pictures())).abs().max() > 1e-3
    assert main([str(folder), "--session", "7"]) == 2
    card = folder / "export" / "session_00" / "README.md"
    for file in card.parent.glob("*.json"):  # one that was killed
        file.unlink()
    card.unlink()
    assert main([str(folder), "--session", "0"]) == 0  # in its place
    assert card.is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    capsys.readouterr()
    for place, reason in ((tmp_path / "mine", "holds something else"), (tmp_path / "mine" / "README.md", "is a file")):
        assert main([str(folder), "--output", str(place)]) == 2
        assert f"--output {place}: {reason}" in capsys.readouterr().err
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"


@pytest.mark.xdist_group("lora")
def test_a_folder_of_hugging_face_is_a_backbone_and_says_what_it_is(finished: Finished, tmp_path: Path) -> None:
    run, output = finished("method=lora"), tmp_path / "exported"
    assert main([str(run.path), "--format", "huggingface", "--output", str(output)]) == 0
    read = OpenClip(model=str(output / "config.json"), weights=str(output / "model.safetensors"))
    model, images = everclip.load(run.path), torch.stack([read.resize(picture) for picture in pictures()])
    with torch.no_grad():
        found = read.encode_image(read.normalize(images)), read.encode_text(read.tokenize(TEXTS))
    for own, expected in zip(found, features_of(model), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=3e-6)
    _, front, text = (output / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "everclip", "lora", "shapes_fscil"],
    }
    facts = run.read_run()
    accuracy = f"| last_accuracy | {run.read_summary()['last_accuracy']:.6g} |"
    for fact in (facts["fingerprint"], facts["weights"]["sha256"], accuracy, "CLIPModel.from_pretrained"):
        assert fact in text
    assert re.search(r"```bash\neverclip .*method=lora.*\n```", text)
    assert "paths." not in text


def test_a_card_of_an_earlier_session_leaves_the_licence_open() -> None:
    run = {"method": "a|<b>", "backbone": "vit", "sequence": "s", "sessions": 3, "overrides": ["x=[a, b]"], "seed": 0}
    record = {"index": 1, "tasks": [{"name": "t", "scores": {"accuracy": {"value": 12.5, "count": 8}}}]}
    weights = {"model": "ViT-B-16", "weights": "openai", "sha256": None}
    card = model_card(run, record, {}, weights, "open_clip", "timm/vit")
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["base_model"], front["library_name"]) == ("unknown", "timm/vit", "open_clip")
    assert 'license: "unknown"  # fill in' in card
    for line in (
        r"| method | a\|&lt;b> |",
        "| t: accuracy (8 samples) | 12.5 |",
        "everclip 'x=[a, b]'",
        "| session | 1 of 0 to 2 |",
    ):
        assert line in card.splitlines()


@pytest.mark.xdist_group("cpe_clip")
def test_more_than_weights_is_refused_in_a_line(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished("method=cpe_clip")
    assert main([str(run.path), "--output", str(tmp_path / "exported")]) == 2
    reason = "CpeClip cannot be folded into weights: it has more than those of the towers in encode_image, encode_text"
    assert capsys.readouterr().err == f"everclip-export: {reason}, classifier\n"
    assert not (tmp_path / "exported").exists()
    for load in (True, False):
        with pytest.raises(ConfigError, match=reason):
            from_run(run=str(run.path), load=load)


@pytest.mark.xdist_group("cpe_clip")
def test_a_method_that_says_nothing_of_what_it_adds_is_found_out(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CpeClip, "outside_towers", lambda self: ())
    assert main([str(finished("method=cpe_clip").path), "--output", str(tmp_path)]) == 2
    assert "CpeClip cannot be folded into weights: features differ by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.xdist_group("lora")
def test_parts_that_open_clip_does_not_have_are_named(finished: Finished) -> None:
    path = finished("method=lora").checkpoint(2)
    method = everclip.load(path.parents[1]).method
    replace_modules(method.backbone, r".*visual\.ln_post", lambda module: torch.nn.Sequential(module))
    with pytest.raises(ConfigError, match=r"it changes the model's parts, as model\.visual\.ln_post"):
        folded(method, path)


@pytest.mark.parametrize(
    ("make", "hooks"),
    [
        pytest.param(ZeroShot, (), id="nothing_adapted"),
        pytest.param(lambda backbone: Icarl(backbone, classify_by="text"), (), id="texts"),
        pytest.param(lambda backbone: Icarl(backbone, classify_by="means"), ("classifier",), id="means"),
        pytest.param(lambda backbone: Conpet(backbone, mode="static"), (), id="one_set"),
        pytest.param(lambda backbone: Conpet(backbone, mode="dynamic"), ("classifier",), id="a_set_per_session"),
    ],
)
def test_what_a_method_has_outside_the_towers(
    tiny: Callable[[], OpenClip], make: Callable[[OpenClip], Method], hooks: tuple[str, ...]
) -> None:
    assert make(tiny()).outside_towers() == hooks


@pytest.mark.xdist_group("lora")
def test_a_run_goes_on_from_what_another_run_adapted(run: Run, finished: Finished) -> None:
    source = finished("method=lora")
    words = ("backbone=from_run", f"backbone.run={source.path}", "method=finetune", "train.max_steps=1")
    folder = run(*words, "max_sessions=1")
    weights, begun = folder.read_run()["weights"], source.read_run()
    assert weights["source_sha256"] == begun["weights"]["sha256"] != weights["sha256"]
    assert (weights["source_method"], weights["source_session"]) == ("lora", 2)
    assert weights["source_digest"] == begun["digest"]
    assert folder.read_summary()["zero_shot_before"] == source.read_sessions()[-1]["zero_shot_accuracy"]

    backbone, model = from_run(run=str(source.path)), everclip.load(source.path)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    images = model.preprocess(pictures())
    with torch.no_grad():
        assert torch.equal(backbone.encode_image(images), model.method.encode_image(images))
    assert everclip.load(folder.path).facts["backbone"] == weights["sha256"]


@pytest.mark.xdist_group("lora")
def test_only_a_finished_run_is_a_backbone(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="holds no checkpoint"):
        from_run(run=str(tmp_path))
    folder = RunFolder(Path(copytree(finished("method=lora").path, tmp_path / "run")))
    folder.update_run(state="preempted")
    with pytest.raises(ConfigError, match=r"backbone\.run=.* is not finished \(preempted\)"):
        from_run(run=str(folder.path), load=False)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_says_what_it_does(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([option])
    assert end.value.code == 0
    assert "everclip" in capsys.readouterr().out
