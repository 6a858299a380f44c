"""The paper's experiments compose, with every sequence and with each other, and say what the official code says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from everclip.commands import check
from everclip.config.checks import check_group, check_values
from everclip.config.schema import GROUPS, conf_dir
from everclip.errors import MissingError

Compose = Callable[..., DictConfig]
BENCHMARKS = {"cifar100": (5, 32), "cub200": (6, 4), "miniimagenet": (5, 32)}  # epochs and batch of the base session
VARIANTS = sorted({path.stem for path in (conf_dir() / "experiment" / "cpe_clip").glob("*.yaml")} - set(BENCHMARKS))
PLACES = [
    pytest.param(["sequence=shapes_fscil", "backbone=tiny"], id="shapes"),
    *(pytest.param([f"sequence=fscil_{name}", "backbone=vit_b16_openai"], id=name) for name in BENCHMARKS),
]
OFFICIAL = {"prompt_length": 2, "prompt_depth": None, "text_mode": "replace", "vision_mode": "accumulate"} | {
    "vision_prompts": True, "regularizer": "balance", "template": "{}.", "logit_scale": 100.0, "exact_naive": False,
}  # fmt: skip
CHANGES = {
    "no_accumulation": {"vision_mode": "replace"},
    "no_accumulation_official": {"vision_mode": "replace", "regularizer": "none"},
    "no_regularization": {"regularizer": "none"},
    "no_vision_prompts": {"vision_prompts": False},
    "prompt_depth": {},
    "prompt_length": {},
}


def settings(config: DictConfig) -> dict[str, object]:
    return {str(key): value for key, value in config.method.items() if key != "_target_"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_has_the_official_settings(name: str, compose: Compose) -> None:
    config = compose(f"+experiment=cpe_clip/{name}")
    assert settings(config) == OFFICIAL
    train = config.train
    assert (train.base.epochs, train.base.batch_size, train.epochs, train.batch_size) == (*BENCHMARKS[name], 5, 4)
    optimizer = {str(key): value for key, value in config.optimizer.items()}
    assert optimizer == {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-5}
    assert (config.backbone.model, config.trainer.precision) == ("ViT-B-16-quickgelu", "32-true")
    assert config.hydra.runtime.choices.sequence == f"fscil_{name}"
    assert (train.max_steps, train.gradient_clip) == (None, None)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_variant_changes_what_it_says_wherever_it_runs(name: str, place: list[str], compose: Compose) -> None:
    config, plain = compose(f"+experiment=cpe_clip/{name}", *place), compose(*place, "method=cpe_clip")
    check_values(config)
    for group in GROUPS:
        check_group(group, config[group])
    assert settings(config) == settings(plain) | CHANGES[name]
    assert config.train == plain.train


def test_a_variant_keeps_a_benchmarks_settings(compose: Compose) -> None:
    config = compose("+experiment=[cpe_clip/cub200,cpe_clip/no_accumulation_official]")
    assert settings(config) == OFFICIAL | CHANGES["no_accumulation_official"]
    assert config.train.base.epochs == 6
    assert config.hydra.runtime.choices.sequence == "fscil_cub200"


@pytest.mark.parametrize("key", ["prompt_length", "prompt_depth"])
def test_a_sweep_names_values_that_fit_every_backbone(key: str, compose: Compose) -> None:
    swept = compose(f"+experiment=cpe_clip/{key}").hydra.sweeper.params[f"method.{key}"]
    for value in swept.split(","):
        check_group("method", compose(f"method.{key}={value}").method)


def test_a_check_without_data_says_what_is_missing_and_what_to_do(compose: Compose, tmp_path: Path) -> None:
    config = compose("+experiment=cpe_clip/cub200", f"paths.data={tmp_path}", "check=true")
    message = f"CUB-200-2011: {tmp_path}/CUB_200_2011/.* is not there; everclip-data prepare cub200 gets it"
    with pytest.raises(MissingError, match=message):
        check.check(config, config.hydra)
