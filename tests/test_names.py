"""A run's name says what differs from the defaults."""

from __future__ import annotations

import pytest

from everclip.config.names import fitted, settings_of
from everclip.sweeps.slurm import array_name
from everclip.sweeps.sweep import Job

FOLDER = "/o/shapes/lora/tiny/abc/seed"


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        pytest.param(["optimizer.lr=0.1", "seed=3", "method=lora", "backbone=tiny"], ["lr=0.1"], id="shown anyway"),
        pytest.param(["sequence.shots=5", "+experiment=a/b"], ["experiment=a/b", "shots=5"], id="sorted"),
        pytest.param(["train.base.epochs=2", "train.epochs=1"], ["train.base.epochs=2", "train.epochs=1"], id="alike"),
        pytest.param(
            ["optimizer=sgd", "reference=cc", "validation=0.2"],
            ["optimizer=sgd", "reference=cc", "validation=0.2"],
            id="groups",
        ),
        pytest.param(["debug=overfit", "method=lora"], ["debug=overfit"], id="for finding faults"),
        pytest.param(["trainer.precision=bf16-mixed", "trainer.devices=2"], ["precision=bf16-mixed"], id="precision"),
        pytest.param(
            ["--config-dir", "x", "paths.outputs=y", "data.cache=disk", "hydra.run.dir=z", "restart=true"],
            [],
            id="no result depends on it",
        ),
        pytest.param(
            ["sequence=few_shot", "sequence/dataset=dtd", "method.targets=[q,v]"], ["targets=[q,v]"], id="data set"
        ),
    ],
)
def test_settings_that_tell_runs_apart(words: list[str], settings: list[str]) -> None:
    assert settings_of(words) == settings


def test_jobs_of_a_sweep_over_a_setting_have_names_of_their_own() -> None:
    jobs = [Job(f"{FOLDER}{seed}", [f"seed={seed}", f"optimizer.lr={lr}"]) for lr in (0.1, 0.2) for seed in (0, 1)]
    assert [job.name for job in jobs][1:3] == ["lora-shapes-lr=0.1-seed1", "lora-shapes-lr=0.2-seed0"]
    assert len({job.name for job in jobs}) == 4
    assert array_name(jobs) == "lora-shapes-lr=0.1+lr=0.2-seed0+seed1"
    assert Job(f"{FOLDER}0", ["seed=0"]).name == "lora-shapes-seed0"


def test_a_name_that_is_cut_off_stays_apart() -> None:
    assert fitted("abcdef", 6, "12") == "abcdef"
    assert fitted("abcdefg", 6, "12") == "abc-12"
