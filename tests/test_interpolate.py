"""everclip-interpolate and everclip-sharpness: the ends are the stored models themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from everclip.backbones.open_clip import OpenClip
from everclip.commands import interpolate, sharpness
from everclip.commands.line import align, layer_of, line
from everclip.errors import ConfigError
from everclip.methods.linear_probe import LinearProbe
from everclip.runs.folder import RunFolder
from everclip.types import ClassSet

Finished = Callable[..., RunFolder]
BRIEF = ("train.max_steps=2", "max_sessions=2")
TUNED = ("method=finetune", "optimizer.lr=1e-3", *BRIEF)
LOW_RANK = ("method=lora", *BRIEF)


def run(tmp_path: Path, *words: object) -> Any:
    """The written JSON of a curve."""
    arguments = [*map(str, words), "--output", str(tmp_path), "--accelerator", "cpu"]
    assert interpolate.main(arguments) == 0
    (written,) = tmp_path.glob("*.json")
    return json.loads(written.read_text()) | {"file": written.name}


def ends(found: Any) -> list[tuple[float, float]]:
    return [(row["score"], row["held_out"]) for row in found["curve"]]


def result(folder: RunFolder, session: int) -> tuple[float, float]:
    record = folder.read_sessions()[session]
    return record["accuracy"], record["zero_shot_accuracy"]


def test_the_ends_of_the_curve_are_the_stored_models(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned, zero_shot = finished(*TUNED), finished("method=zero_shot", *BRIEF)
    words = ("--alphas", 0, 0.5, 1, "--points", 6, "--steps", 1)
    found = run(tmp_path, "pretrained", tuned.path, *words)
    out = capsys.readouterr().out
    assert found["file"] == "interpolation_pretrained_to_session_01.json"
    assert ends(found)[::2] == [result(zero_shot, 1), result(tuned, 1)]
    assert [len(row["tasks"]) for row in found["curve"]] == [2, 2, 2]
    weighted = sum(task["loss"] * task["scores"]["accuracy"]["count"] for task in found["curve"][2]["tasks"])
    assert found["curve"][2]["loss"] == pytest.approx(weighted / 40)
    layers = found["layers"]
    assert {"visual.transformer.resblocks.0", "transformer.resblocks.3", "visual.proj"} <= set(layers)
    for facts in layers.values():
        assert facts["distance"] > 0
        (_, first), (_, middle), (_, last) = facts["losses"]
        assert facts["barrier"] == pytest.approx(max(0, middle - (first + last) / 2))
        assert facts["straggler"] == (facts["barrier"] > 0.01)
    assert set(found["curve"][0]["layers"]) >= set(layers)
    assert (tmp_path / "interpolation_pretrained_to_session_01.png").is_file()
    assert (tmp_path / "interpolation_pretrained_to_session_01_layers.png").is_file()
    assert f"|  1.00 |    {result(tuned, 1)[0]:.2f} |" in out


def test_sessions_and_methods_may_differ_where_weights_are_all(finished: Finished, tmp_path: Path) -> None:
    tuned, low_rank = finished(*TUNED), finished(*LOW_RANK)
    found = run(tmp_path, tuned.checkpoint(0), low_rank.path, "--alphas", 0, 1, "--points", 0)
    assert found["file"].startswith("interpolation_finetune_")
    assert found["file"].endswith("_0_session_00_to_session_01.json")
    assert ends(found)[1] == result(low_rank, 1)
    assert found["layers"] == {}
    assert found["curve"][0]["sharpness"] is None


def test_low_rank_updates_are_mixed_as_weights(finished: Finished) -> None:
    low_rank = finished(*LOW_RANK)
    between = line("pretrained", str(low_rank.path))
    assert not [name for name in between.last if "parametrizations" in name]
    assert between.layers()
    between.place(0.25)
    state = between.method.state_dict()
    for name, last in between.last.items():
        torch.testing.assert_close(state[name], 0.75 * between.first[name] + 0.25 * last)
    names = between.layers()["visual.transformer.resblocks.1"]
    between.place(1.0, names)
    for name, value in between.method.state_dict().items():
        if name in between.last:
            assert torch.equal(value, (between.last if name in names else between.first)[name])


def test_rows_follow_the_names_of_classes(tiny: Callable[[], OpenClip]) -> None:
    cats, dogs = ClassSet((0, 1, 2), ("cat", "dog", "owl")), ClassSet((0, 1), ("dog", "cat"))
    first, last = probe(tiny(), cats, [1.0, 2.0, 3.0]), probe(tiny(), dogs, [0.0, 0.0])
    align(first, cats, last, dogs)
    assert first.head.rows[:, 0].tolist() == [2.0, 1.0]
    with pytest.raises(ConfigError, match="the start knows no class 'owl' of the end"):
        align(last, dogs, probe(tiny(), cats, [0.0, 0.0, 0.0]), cats)


def probe(backbone: OpenClip, classes: ClassSet, values: list[float]) -> LinearProbe:
    """A linear probe whose rows have these values."""
    made = LinearProbe(backbone)
    made.head.append(classes, torch.tensor(values)[:, None].expand(-1, made.head.rows.shape[1]))
    return made


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("pretrained", "probe", r"is more than weights of the towers \(in classifier of LinearProbe\)"),
        ("probe", "low_rank", r"is more than weights of the towers \(in classifier of LinearProbe\)"),
        ("nothing.safetensors", "low_rank", "nothing.safetensors is not there"),
        ("low_rank", "nowhere", "nowhere: no such folder"),
    ],
)
def test_unlike_ends_have_no_line(
    start: str, end: str, message: str, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"probe": finished("method=linear_probe", *BRIEF), "low_rank": finished(*LOW_RANK)}
    words = [str(runs[name].path) if name in runs else name for name in (start, end)]
    assert interpolate.main(words) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error


@pytest.mark.parametrize("kind", ["average", "worst"])
def test_sharpness_of_a_run(kind: str, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, target = finished("method=linear_probe", *BRIEF), tmp_path / "s.json"
    words = [str(folder.path), "--points", "6", "--steps", "1", "--kind", kind, "--output", str(target)]
    assert sharpness.main([*words, "--accelerator", "cpu"]) == 0
    (found,) = json.loads(target.read_text()).values()
    assert {"all weights", "head.rows", "transformer.resblocks.0"} <= set(found)
    assert kind == "average" or min(found.values()) >= 0
    assert found["visual.proj"] != 0
    assert found["transformer.resblocks.0"] == 0  # a linear head reads no texts
    assert "| all weights " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("backbone.model.visual.transformer.resblocks.11.attn.in_proj_weight", "visual.transformer.resblocks.11"),
        ("backbone.model.visual.trunk.blocks.3.mlp.fc1.weight", "visual.trunk.blocks.3"),
        ("backbone.model.visual.conv1.weight", "visual.conv1"),
        ("backbone.model.visual.proj", "visual.proj"),
        ("backbone.model.logit_scale", "logit_scale"),
        ("head.rows", "head.rows"),
    ],
)
def test_a_layer_is_a_block_or_a_module(name: str, layer: str) -> None:
    assert layer_of(name) == layer
