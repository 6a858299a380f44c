"""What is read of the command line without `hydra.main` means what it means with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from everclip.commands import run as cli

Command = Callable[..., tuple[int, str, str]]
STARTED: list[str] = []


class Started(Callback):
    """Notes the runs that Hydra tells of."""

    def on_run_start(self, config: Any, **_: Any) -> None:
        STARTED.append(config.method._target_)


@pytest.fixture
def everclip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs the command in this process; gives exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["everclip", *words, f"paths.outputs={tmp_path}/outputs"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows with everything that Hydra composes."""
    found: list[Any] = []
    load = ConfigLoaderImpl.load_configuration

    def loading(*arguments: Any, **keywords: Any) -> Any:
        found.append(load(*arguments, **keywords))
        return found[-1]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", loading)
    return found


def test_a_run_is_composed_once_to_what_hydra_composes(everclip: Command, composed: list[Any], tmp_path: Path) -> None:
    words = ("method=zero_shot", "seed=3", "train.epochs=-1")
    refused = (2, "", "everclip: train.epochs=-1: must be at least 0\n")
    assert everclip(*words) == refused
    (ours,) = composed
    assert everclip("--run", *words) == refused
    theirs = composed[-1]
    assert len(composed) == 3  # of which Hydra needs the first to see whether it is a sweep
    one, other = map(OmegaConf.to_container, (ours, theirs))
    assert other["hydra"]["overrides"].pop("hydra") == ["hydra.mode=RUN"]  # Hydra adds it
    assert one["hydra"]["overrides"].pop("hydra") == []
    assert one == other
    assert ours.hydra.runtime.output_dir.startswith(f"{tmp_path}/outputs/shapes_fscil/zero_shot/")


def test_a_sweep_may_be_asked_for_by_a_setting(everclip: Command, tmp_path: Path) -> None:
    settings = tmp_path / "conf" / "experiment"
    settings.mkdir(parents=True)
    (settings / "seeds.yaml").write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    searched = f"hydra.searchpath=[{settings.parent}]"
    code, out, _ = everclip("hydra/launcher=slurm", "check=true", searched, "+experiment=seeds")
    assert (code, out.splitlines()[0]) == (0, "1 runs: 0 finished, 0 in the queue, 1 to submit")


def test_callbacks_are_told_of_a_run(everclip: Command) -> None:
    STARTED.clear()
    code, *_ = everclip(f"+hydra.callbacks.own._target_={__name__}.Started", "method=zero_shot", "train.epochs=-1")
    assert (code, STARTED) == (2, ["everclip.methods.zero_shot.ZeroShot"])


def test_a_setting_of_hydra_for_a_run_is_followed(everclip: Command, tmp_path: Path) -> None:
    everclip("method=zero_shot", "train.epochs=-1", "hydra.output_subdir=own", f"hydra.run.dir={tmp_path}/run")
    assert "method=zero_shot" in (tmp_path / "run" / "own" / "overrides.yaml").read_text()


def test_help_is_that_of_hydra(everclip: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[ConfigStore] = []

    def copied(store: ConfigStore, _: Any) -> ConfigStore:
        copies.append(store)
        return store

    monkeypatch.setattr(ConfigStore, "__deepcopy__", copied, raising=False)
    ours = everclip("--help", "method=zero_shot")
    assert "everclip.methods.zero_shot.ZeroShot" in ours[1]
    assert copies == []
    assert everclip("--help", "--config-name=run", "method=zero_shot") == ours
    assert len(copies) > 100
