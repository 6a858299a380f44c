"""scripts/interpolate.py: its ends are the stored models themselves."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everclip.runs.folder import RunFolder

Run = Callable[..., RunFolder]
SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def interpolate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.syspath_prepend(SCRIPTS)
    main = importlib.import_module("interpolate").main
    return lambda *words: main([str(word) for word in (*words, "--accelerator", "cpu")])


def ends(path: Path) -> list[tuple[float, float]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["curve"]
    return [(row["accuracy"], row["zero_shot_accuracy"]) for row in rows]


def result(folder: RunFolder, session: int) -> tuple[float, float]:
    record = folder.read_sessions()[session]
    return record["accuracy"], record["zero_shot_accuracy"]


def test_the_ends_of_the_curve_are_the_stored_models(run: Run, interpolate: Callable[..., None]) -> None:
    words = ("method=finetune", "train.max_steps=3", "optimizer.lr=1e-3", "max_sessions=2")
    folder, other = run(*words), run(*words, "seed=1", folder="other")
    zero_shot = run("method=zero_shot", "max_sessions=2", folder="zero_shot")
    alphas = ("--alphas", 0, 1)

    interpolate(folder.path, *alphas)
    assert ends(folder.path / "interpolation_zero_shot_-1.json") == [result(zero_shot, 1), result(folder, 1)]
    assert (folder.path / "interpolation_zero_shot_-1.png").is_file()

    interpolate(folder.path, "--start", 0, "--end", 1, *alphas)
    assert ends(folder.path / "interpolation_0_1.json")[1] == result(folder, 1)

    interpolate(folder.path, "--start", other.checkpoint(1), *alphas)
    assert ends(folder.path / "interpolation_session_01_-1.json") == [result(other, 1), result(folder, 1)]


def test_checkpoints_of_different_shapes_have_no_curve(
    run: Run, interpolate: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("method=lora", "train.max_steps=1", "max_sessions=1")
    with pytest.raises(SystemExit) as end:
        interpolate(folder.path)
    assert end.value.code == 2
    assert "are not of the same names and shapes" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        interpolate(folder.path, "--start", folder.path / "nothing.safetensors")
    assert end.value.code == 2
    assert "nothing.safetensors is not there" in capsys.readouterr().err
