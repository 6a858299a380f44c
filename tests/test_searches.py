"""Sweeps over globs, and searches: what is proposed, by what it is judged, how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from everclip.config import checks
from everclip.errors import ConfigError
from everclip.runs.folder import RunFolder
from everclip.sweeps.launchers import OUTCOMES, Outcome
from hydra_plugins.everclip_sweepers import OptunaSweeper, distribution
from tests.test_sweeps import everclip  # noqa: F401 (a fixture)

Everclip = Callable[..., tuple[int, str, str]]
LR, EPOCHS = "lr=tag(log,interval(1e-4,1e-1))", "epochs=range(1,9,2)"


class Results:
    """A launcher whose runs end at once; the best are those with few epochs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[list[str]] = []

    def launch(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        for words in jobs:
            self.started.append(list(words))
            folder = RunFolder(self.root / str(len(self.started)))
            OUTCOMES.append(Outcome(folder.path, 0))
            epochs = int(words[-1].removeprefix("epochs="))
            if epochs < 7:
                folder.update_run(state="finished")
                folder.write_summary({"average_accuracy": 90.0 - epochs})


def searching(root: Path, **options: Any) -> tuple[OptunaSweeper, Results]:
    settings = {"trials": 8, "batch": 2, "metric": "average_accuracy", "direction": "maximize", "seed": 0}
    sweeper = OptunaSweeper(**settings | {"params": None} | options)
    nothing = {"log_level": "info", "check": False, "plan": False, "validation": 0.2}
    sweeper._config = OmegaConf.create({**nothing, "hydra": {"runtime": {"choices": {"hydra/launcher": "local"}}}})
    sweeper._loader = None
    sweeper._launcher = launcher = Results(root)
    return sweeper, launcher


def test_a_search_ends_with_the_command_that_tests_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper, launcher = searching(tmp_path / "a")
    sweeper.sweep(["hparams_search=optuna", "x=1", LR, EPOCHS])
    assert 7 in {int(words[-1].removeprefix("epochs=")) for words in launcher.started}  # one failed, the search goes on
    for words in launcher.started:
        assert words[:3] == ["validation=0.2", "hparams_search=optuna", "x=1"]
        assert 1e-4 <= float(words[3].removeprefix("lr=")) <= 1e-1
    *_, last = capsys.readouterr().out.splitlines()
    (best,) = [words for words in launcher.started if last.endswith(f" {words[3]} {words[4]}")]
    assert best[4] == "epochs=1"
    assert f"on the test set: everclip x=1 {best[3]}" in last
    again, second = searching(tmp_path / "b")
    again.sweep(["hparams_search=optuna", "x=1", LR, EPOCHS])
    assert second.started == launcher.started


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        ([LR], {"validation": None}, "a search without validation would select on the test set; set validation=0.2"),
        (["seed=0,1"], {}, "seed=0,1: seed changes what a run is judged by and is no hyperparameter"),
        (["sequence.shots=1,2"], {}, "sequence.shots changes what a run is judged by"),
        (["x=1"], {}, "nothing to search for"),
        ([LR], {"hydra.runtime.choices": {"hydra/launcher": "slurm"}}, "a search waits for results"),
    ],
)
def test_a_search_that_cannot_be_right_is_refused(
    tmp_path: Path, words: list[str], changes: dict[str, Any], message: str
) -> None:
    sweeper, launcher = searching(tmp_path)
    for key, value in changes.items():
        OmegaConf.update(sweeper._config, key, value)
    with pytest.raises(ConfigError, match=message):
        sweeper.sweep(words)
    assert launcher.started == []


def test_a_metric_that_no_summary_has_is_refused(tmp_path: Path) -> None:
    sweeper, _ = searching(tmp_path, metric="acuracy")
    with pytest.raises(ConfigError, match=r"hydra.sweeper.metric=acuracy: must be one of average_accuracy"):
        sweeper.sweep([LR, "epochs=range(1,4)"])


@pytest.mark.parametrize(
    ("word", "kind", "facts"),
    [
        ("a=interval(1,2)", "FloatDistribution", {"low": 1.0, "high": 2.0, "log": False}),
        ("a=tag(log,interval(1,2))", "FloatDistribution", {"low": 1.0, "high": 2.0, "log": True}),
        ("a=range(1,8,3)", "IntDistribution", {"low": 1, "high": 7, "step": 3}),
        ("a=b,null", "CategoricalDistribution", {"choices": ("b", "null")}),
        ("a=range(0.5,1.5,0.5)", "CategoricalDistribution", {"choices": ("0.5", "1.0")}),
    ],
)
def test_hydras_grammar_says_what_is_searched(word: str, kind: str, facts: dict[str, Any]) -> None:
    (override,) = OverridesParser.create().parse_overrides([word])
    found = distribution(override)
    assert type(found).__name__ == kind
    assert {key: getattr(found, key) for key in facts} == facts


def test_a_search_of_the_command_is_judged_by_training_pictures(compose: Callable[..., DictConfig]) -> None:
    searched, plain = compose("hparams_search=optuna"), compose()
    assert (searched.validation, plain.validation) == (0.2, None)
    for config, name in ((searched, "OptunaSweeper"), (plain, "GridSweeper")):
        assert config.hydra.sweeper._target_ == f"hydra_plugins.everclip_sweepers.{name}"
    assert searched.hydra.run.dir != plain.hydra.run.dir


def test_a_search_by_w_and_b_is_judged_by_training_pictures(compose: Callable[..., DictConfig]) -> None:
    content = yaml.safe_load((Path(__file__).parents[1] / "scripts" / "wandb_sweep.yaml").read_text())
    parameters = {
        name: facts.get("values") or [facts["min"], facts["max"]] for name, facts in content["parameters"].items()
    }
    folders = set()
    for name, values in parameters.items():
        for value in values:
            given = create_sweep_command_args({"args": {name: {"value": value}}})
            program, *words, place = content["command"]
            config = compose(*words, *given[place[2:-1]])
            checks.check_values(config)
            assert (program, config.validation, OmegaConf.select(config, name)) == ("everclip", 0.2, value)
            folders.add(config.hydra.run.dir)
    assert len(folders) == sum(map(len, parameters.values()))
    assert content["metric"] == {"name": "final/average_accuracy", "goal": "maximize"}


def test_a_search_needs_many_runs(everclip: Everclip) -> None:  # noqa: F811
    assert everclip("hparams_search=optuna") == (2, "", "everclip: hparams_search starts several runs; it needs -m\n")


def test_a_glob_reaches_into_folders_and_runs_twins_once(everclip: Everclip) -> None:  # noqa: F811
    code, out, _ = everclip("-m", "+experiment=glob(cpe_clip/no_*)", "check=true", "hydra/launcher=slurm", "seed=1,1")
    assert code == 0
    assert out.startswith("4 of 8 runs are the same as others and run once\n4 runs: 0 finished")
    code, _, error = everclip("-m", "+experiment=glob(cpe_clipp/*)")
    assert code == 2
    assert error.startswith("everclip: +experiment=glob(cpe_clipp/*) matches nothing; experiment has: coda_prompt/*, ")
