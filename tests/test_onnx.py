"""everclip-export --format onnx: the graph computes what the run's model computes, for any number of pictures."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import everclip
from everclip.commands import onnx_graph
from everclip.commands.export import main
from everclip.commands.load import AdaptedModel
from everclip.commands.onnx_graph import Graph
from everclip.runs.folder import RunFolder
from everclip.types import NO_CLASSES
from tests.conftest import METHODS

Finished = Callable[..., RunFolder]
GRAPHS = [p for p in METHODS if p.values[0] in ("cpe_clip", "lora")]
MODELS = Path(__file__).parents[1] / "docs" / "howto" / "models.md"


def onnx_is_there() -> None:
    """Skips where the extra is not installed; it is too large for those of developers."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)


def pictures(model: AdaptedModel, count: int) -> tuple[list[Image.Image], Tensor]:
    """Pictures of another size than the model's, and as it takes them."""
    noise = torch.randint(256, (count, 40, 52, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = [Image.fromarray(values.numpy()) for values in noise]
    return images, torch.stack([model.backbone.resize(image) for image in images])


@pytest.mark.parametrize("method", GRAPHS)
def test_a_graph_is_followed_for_any_number_of_pictures(finished: Finished, method: str) -> None:
    model = everclip.load(finished(f"method={method}").path)
    graph = Graph(model).eval()
    images, pixels = pictures(model, 5)
    number = ({0: torch.export.Dim("pictures")},)
    followed = torch.export.export(graph, (pixels[:3],), dynamic_shapes=number, strict=False).module()
    features, probabilities = followed(pixels)
    torch.testing.assert_close(features, model.encode_image(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(probabilities, model.classify(images), rtol=0, atol=1e-5)
    assert len(Graph(AdaptedModel(model.method, NO_CLASSES, {}))(pixels)) == 1  # features alone


@pytest.mark.xdist_group("lora")
@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_what_is_missing_is_named_before_anything_is_read(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    folder = finished("method=lora").path
    monkeypatch.setitem(sys.modules, package, None)
    assert main([str(folder), "--format", "onnx"]) == 2
    assert capsys.readouterr().err == (
        "everclip-export: --format onnx needs ONNX and its runtime: pip install 'everclip[onnx]'\n"
    )


@pytest.mark.parametrize("method", GRAPHS)
def test_the_page_of_the_documentation_classifies_without_torch(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    onnx_is_there()
    run = finished(f"method={method}")
    assert main([str(run.path), "--format", "onnx", "--output", str(tmp_path / "lora_3_onnx")]) == 0
    model = everclip.load(run.path)
    (image, *_), _ = pictures(model, 1)
    image.save(tmp_path / "photo.jpg")
    (program,) = (b for b in re.findall(r"```python\n(.*?)```", MODELS.read_text(), re.DOTALL) if "onnxruntime" in b)
    monkeypatch.chdir(tmp_path)
    said: dict[str, Any] = {}
    exec(program, said)
    seen = [Image.open(tmp_path / "photo.jpg")]
    torch.testing.assert_close(torch.from_numpy(said["features"]), model.encode_image(seen), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(said["probabilities"]), model.classify(seen), rtol=0, atol=1e-5)
    assert said["facts"]["classes"] == list(model.classes.names)
    assert said["facts"]["everclip"]["source_digest"] == run.read_run()["digest"]
    assert said["facts"]["preprocess"]["resize_mode"] == "shortest"
    assert "onnxruntime.InferenceSession" in (tmp_path / "lora_3_onnx" / "README.md").read_text()


@pytest.mark.xdist_group("lora")
def test_a_graph_that_computes_something_else_does_not_stay(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_is_there()
    run = finished("method=lora").path
    computed = onnx_graph.graph_outputs
    monkeypatch.setattr(onnx_graph, "graph_outputs", lambda *given: tuple(1.01 * found for found in computed(*given)))
    assert main([str(run), "--format", "onnx", "--output", str(tmp_path)]) == 2
    assert "Lora is no graph of ONNX: features or probabilities differ by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        pytest.param(
            "gda", "its code reads values of tensors, or does what ONNX cannot", marks=pytest.mark.xdist_group("gda")
        ),
        pytest.param(
            "cocoop", "what it computes depends on how many pictures come", marks=pytest.mark.xdist_group("cocoop")
        ),
    ],
)
def test_what_no_graph_computes_is_refused_in_a_line(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str], method: str, reason: str
) -> None:
    onnx_is_there()
    run = finished(f"method={method}").path
    capfd.readouterr()
    assert main([str(run), "--format", "onnx", "--output", str(tmp_path)]) == 2
    told = capfd.readouterr()
    assert (told.out, told.err.lower()) == ("", f"everclip-export: {method} is no graph of onnx: {reason}\n".lower())
