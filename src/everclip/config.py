"""The configuration: schema of the shared keys, checks, digest, and building objects from it. Imports no torch.

Only this module and `cli.py` know Hydra.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
import pydantic
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from everclip.digest import json_sha256
from everclip.errors import ConfigError

GROUPS = ("backbone", "sequence", "method", "optimizer", "scheduler")
LOG_LEVELS = ("debug", "info", "warning", "error")


def number(default: Any, low: float, high: float | None = None) -> Any:
    """A dataclass field whose value must be at least `low` and at most `high`."""
    return field(default=default, metadata={"low": low, "high": high})


def choice(default: str, *allowed: str) -> Any:
    """A dataclass field with a fixed list of values."""
    return field(default=default, metadata={"allowed": allowed})


@dataclass
class BaseBudget:
    """Budget of the base session where it differs; null: as in the other sessions."""

    epochs: int | None = number(None, 0)
    batch_size: int | None = number(None, 1)


@dataclass
class TrainConfig:
    """Budget of a session: passes over its pictures, pictures per step over all devices, and a cap on steps."""

    epochs: int = number(5, 0)
    batch_size: int = number(32, 1)
    max_steps: int | None = number(None, 1)
    gradient_clip: float | None = number(None, 0)
    augment: str = choice("none", "none", "flip", "crop", "crop_flip")
    base: BaseBudget = field(default_factory=BaseBudget)


@dataclass
class DataConfig:
    """Loading: worker processes per device, pictures per forward pass in evaluation.

    cache: keep decoded and resized pictures on `disk` (under `paths.cache`, for later runs too) or in `memory`. Off
    unless asked for: a large data set would fill a home folder unasked.
    """

    num_workers: int = number(0, 0)
    eval_batch_size: int = number(250, 1)
    cache: str = choice("off", "off", "disk", "memory")


@dataclass
class TrainerConfig:
    """Where to run, as in Lightning; precision auto: bfloat16 mixed on a GPU that has it, float32 elsewhere.

    strategy: `ddp`: data parallel; `fsdp`: also divides frozen weights; auto: `ddp` on more than one device.
    accumulate: micro-batches per step; auto_batch: double them when memory does not hold a step; compile: the blocks of
    prompted towers by torch.compile, which takes a minute or so first.
    """

    accelerator: str = choice("auto", "auto", "cpu", "gpu", "cuda", "mps")
    devices: Any = 1
    num_nodes: int = number(1, 1)
    strategy: str = choice("auto", "auto", "ddp", "fsdp")
    precision: str = choice("auto", "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true")
    log_every: int = number(10, 1)
    accumulate: int = number(1, 1)
    auto_batch: bool = False
    compile: bool = False


@dataclass
class CheckpointConfig:
    """How often a session in training is saved; null: not because of steps, or of time."""

    every_n_steps: int | None = number(None, 1)
    every_n_minutes: float | None = number(10, 0)


@dataclass
class WandbConfig:
    """W&B; mode auto: `WANDB_MODE`, else online if logged in, else offline."""

    enabled: bool = True
    project: str = "everclip"
    entity: str | None = None
    mode: str = choice("auto", "auto", "online", "offline", "disabled")
    log_model: bool = False


@dataclass
class LoggerConfig:
    """Mirrors of the run folder."""

    csv: bool = True
    tensorboard: bool = False
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class PathsConfig:
    """Where results go, where data sets lie, where what can be made again is kept."""

    outputs: str = "outputs"
    data: str = MISSING
    cache: str = MISSING


@dataclass
class RunConfig:
    """Shared keys. The groups below are checked against the constructor they name.

    eval: a stored session to evaluate, `session_03` or the path of a checkpoint; force: take a run folder from a
    process of another host; restart: begin anew, whatever the run folder holds; trust: packages besides everclip that a
    stored run's configuration may name methods of; plan: measure a few steps and say what the run would cost;
    validation: share of each class's training pictures that takes the place of the test set.

    `reference` counts, in checks and digest, as part of a method that asks for it by `reference: ${reference}`.
    """

    seed: int = number(0, 0, 2**31 - 1)
    check: bool = False
    plan: bool = False
    eval: str | None = None
    force: bool = False
    restart: bool = False
    trust: list[str] = field(default_factory=list)
    max_sessions: int | None = number(None, 1)
    validation: float | None = number(None, 0.01, 0.5)
    log_level: str = choice("info", *LOG_LEVELS)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    backbone: Any = MISSING
    sequence: Any = MISSING
    reference: Any = MISSING
    method: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING


def conf_dir() -> Path:
    """The configuration files: inside the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def register() -> None:
    """Makes schema and resolvers known to Hydra and OmegaConf."""
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: str(run_folder(_root_)), replace=True)


def compose(overrides: Sequence[str]) -> DictConfig:
    """The root configuration with its `hydra` node, as the command line would compose it."""
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("run", list(overrides), return_hydra_config=True)


def choices(node: DictConfig) -> dict[str, str]:
    """The chosen option of each group, from Hydra's own node; a sequence over any data set is named with it."""
    chosen = {group: str(node.runtime.choices[group]) for group in (*GROUPS, "trainer", "logger")}
    if dataset := node.runtime.choices.get("sequence/dataset"):
        chosen["sequence"] += f"_{dataset}"
    return chosen


def digest(config: DictConfig) -> str:
    """8 hex digits over every setting that can change a result, apart from the seed."""
    placeless = config.copy()
    for place in placeless.paths:  # places are no settings
        placeless.paths[place] = ""
    placeless.seed = 0  # a sequence may follow the run's seed
    settings = {key: OmegaConf.to_container(placeless[key], resolve=True) for key in (*GROUPS, "train")}
    judged = [] if config.validation is None else [{"validation": config.validation}]
    return json_sha256([settings, config.max_sessions, config.trainer.precision, *judged])[:8]


def run_folder(config: DictConfig) -> Path:
    """The folder of a run, from a configuration with its `hydra` node."""
    chosen = choices(config.hydra)
    names = [Path(chosen[group]).name for group in ("sequence", "method", "backbone")]
    return Path(config.paths.outputs, *names, digest(config), f"seed{config.seed}").absolute()


def check_values(config: DictConfig) -> None:
    """Compares the shared keys with their limits.

    Raises:
        ConfigError: a value out of its limits, or a required one that is missing.
    """
    for key, value, limits in _limited(RunConfig(), config, ""):
        low, high, allowed = limits.get("low"), limits.get("high"), limits.get("allowed")
        if allowed and value not in allowed:
            raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}{nearest(str(value), allowed)}")
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            limit = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{key}={value}: must be {limit}")
    for group in (*GROUPS, "reference"):
        for key in config[group]:
            if OmegaConf.is_missing(config[group], key):
                raise ConfigError(f"{group}.{key} is required; give it as {group}.{key}=...")


def _limited(schema: Any, config: DictConfig, prefix: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for member in fields(schema):
        default = getattr(schema, member.name)
        if is_dataclass(default):
            yield from _limited(default, config[member.name], f"{prefix}{member.name}.")
        elif member.metadata:
            yield prefix + member.name, config[member.name], member.metadata


def nearest(name: str, names: typing.Iterable[str]) -> str:
    """`; did you mean X?` for the most similar of `names`, empty if none is similar."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def signature_of(target: Any) -> dict[str, inspect.Parameter]:
    """The keyword arguments that a configuration may set."""
    parameters = inspect.signature(target).parameters
    runtime = ("backbone", "load")
    return {name: p for name, p in parameters.items() if name not in runtime and p.kind is not p.POSITIONAL_ONLY}


def check_group(group: str, node: DictConfig) -> None:
    """Compares a group's keys and values with the signature of what it names, without calling it.

    Raises:
        ConfigError: an unknown key, a missing one, a wrong type, or a value outside the annotated limits.
    """
    values: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]  # a mapping
    name = values.pop("_target_", None)
    if not isinstance(name, str):
        raise ConfigError(f"{group} names no _target_ to build")
    try:
        target = get_object(name)
    except Exception as error:  # hydra raises plain Exception subclasses here
        raise ConfigError(f"{group}._target_={name} cannot be imported: {error}") from error
    known = signature_of(target)
    for key in values:
        if key not in known:
            raise ConfigError(f"{group}.{key} is unknown; known: {', '.join(known)}{nearest(key, known)}")
    parts = [key for key, value in values.items() if _is_part(value)]
    for key in parts:
        if isinstance(values[key], list):
            for index, member in enumerate(node[key]):
                check_group(f"{group}.{key}[{index}]", member)
        else:
            check_group(f"{group}.{key}", node[key])
    if not name.startswith("torch."):
        _check_types(group, target, known, values, parts)


def _is_part(value: Any) -> bool:
    """Whether a value is to be built from a node that names a constructor, or a list of such."""
    if isinstance(value, list):
        return bool(value) and all(_is_part(member) for member in value)
    return isinstance(value, dict) and "_target_" in value


def _check_types(
    group: str, target: Any, known: Mapping[str, inspect.Parameter], values: dict[str, Any], parts: list[str]
) -> None:
    """Compares values with annotations; `parts` are built from nodes of their own and have any type yet."""
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    definition: dict[str, Any] = {
        key: (Any if key in parts else hints.get(key, Any), ... if p.default is inspect.Parameter.empty else p.default)
        for key, p in known.items()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }
    # Lists from YAML stand for sequences; everything else must have the annotated type, "5" is no 5.
    strict = pydantic.ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    model = pydantic.create_model(f"{group}_arguments", __config__=strict, **definition)
    try:
        model.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise ConfigError(f"{group}.{key} is required and has no default") from None
        raise ConfigError(f"{group}.{key}={values.get(key)}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def build(group: str, node: DictConfig, *positional: Any, **runtime: Any) -> Any:
    """The object a group names, made of the configured keywords and of runtime arguments.

    Raises:
        ConfigError: the constructor refuses a value.
    """
    alone = OmegaConf.create(
        OmegaConf.to_container(node, resolve=True)
    )  # Hydra resolves what a node points to in place
    try:
        return instantiate(alone, _partial_=True, _convert_="all")(*positional, **runtime)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{group}: {error}") from error
    except InstantiationException as error:  # Hydra's wrapping of what a nested part raised
        raise error.__cause__ or error from None
