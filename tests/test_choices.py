"""Every value of every setting that has a list of them: it is accepted, and in the long form it runs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from everclip.config import checks, schema
from everclip.config.catalogue import option_names, read_option
from everclip.config.sources import signature_of
from everclip.errors import ConfigError
from everclip.runs.folder import RunFolder
from everclip.training.engine import Engine
from tests.trained import WORDS

Compose = Callable[..., DictConfig]


def shared(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The shared keys with a list of values, with each value."""
    for member in fields(node):
        default, key = getattr(node, member.name), f"{prefix}{member.name}"
        if is_dataclass(default):
            yield from shared(default, f"{key}.")
        for value in member.metadata.get("allowed") or ():
            yield key, value


def values_of(hint: Any) -> list[Any]:
    """The values of a `Literal`, also inside a union; of a collection, each alone in a list."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    inner = [value for argument in typing.get_args(hint) for value in values_of(argument)]
    origin = typing.get_origin(hint)
    return [[value] for value in inner] if inspect.isclass(origin) and issubclass(origin, Collection) else inner


def choices(option: DictConfig) -> Iterator[tuple[str, Any]]:
    """The settings of an option's constructor that have a fixed list of values, with each value."""
    target = get_object(option["_target_"])
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for key in signature_of(target):
        for value in values_of(hints.get(key)):
            yield key, value


SHARED = list(shared(schema.RunConfig()))
OTHERS = [  # the contract suite runs every method with its own values
    (name, key, value)
    for name in option_names("method")
    for given in [read_option("method", name)]
    for key, value in choices(given)
    if value != given[key]
]
GROUPS = ("method", "backbone", "sequence", "sequence/dataset", "scheduler", "reference", "class_texts")
CUDA, MPS = torch.cuda.is_available(), torch.backends.mps.is_available()
THERE = {"gpu": CUDA or MPS, "cuda": CUDA, "mps": MPS}
REFUSED = {("trainer.accelerator", name): f"trainer.accelerator={name}" for name, there in THERE.items() if not there}
REFUSED |= {("trainer.precision", "16-mixed"): "needs a GPU", ("trainer.strategy", "fsdp"): "trainer.devices=2 or more"}


def test_the_program_accepts_every_value(compose: Compose) -> None:
    config = compose()
    with open_dict(config):
        del config["hydra"]  # large
    for key, value in SHARED:
        before = OmegaConf.select(config, key)
        OmegaConf.update(config, key, value)
        checks.check_values(config)
        OmegaConf.update(config, key, "okapi")
        with pytest.raises(ConfigError, match=f"{key}=okapi: must be one of .*{value}"):
            checks.check_values(config)
        OmegaConf.update(config, key, before)


@pytest.mark.parametrize(("key", "value"), [choice for choice in SHARED if choice[0].startswith("trainer.")])
def test_the_engine_takes_every_value_or_says_what_it_needs(key: str, value: str) -> None:
    settings = {"accelerator": "cpu", key.removeprefix("trainer."): value}
    if (key, value) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[key, value]):
            Engine(**settings)
    else:
        Engine(**settings).close()


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_accepts_every_value(group: str, compose: Compose) -> None:
    config, member = compose("train.max_steps=5"), group.partition("/")[0]  # codyra asks for a number of steps
    for name in option_names(group):
        if offered := list(choices(read_option(group, name))):
            own = read_option(group, name)
            for key, value in (*offered, *((key, "okapi") for key in dict(offered))):
                with open_dict(config):
                    config[member] = {**own, key: value}
                with pytest.raises(ConfigError, match=f"{key}=okapi") if value == "okapi" else nullcontext():
                    checks.check_group(group, config[member])


@pytest.mark.everything
@pytest.mark.parametrize(("key", "value"), SHARED)
def test_the_program_runs_with_every_value(key: str, value: str, run: Callable[..., RunFolder]) -> None:
    words = (*WORDS, f"{key}={value}")
    if (key, value) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[key, value]):
            run(*words)
    else:
        assert run(*words).state == "finished"


@pytest.mark.everything
@pytest.mark.parametrize(("name", "key", "value"), OTHERS)
def test_a_method_runs_with_every_value(name: str, key: str, value: Any, run: Callable[..., RunFolder]) -> None:
    assert run(*WORDS, f"method={name}", f"method.{key}={value}").state == "finished"
