"""Checks of a configuration before anything is built. Imports no torch but what a checked target imports."""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from typing_extensions import is_protocol

from everclip.config.compatibility import NEUTRAL
from everclip.config.schema import GROUPS, INJECTED, RunConfig
from everclip.config.sources import signature_of
from everclip.errors import ConfigError, nearest


def check_values(config: DictConfig) -> None:
    """Compares the shared keys with the schema and their limits.

    Raises:
        ConfigError: a key that nothing reads, a value out of its limits, or a required one that is missing.
    """
    _refuse_unread(RunConfig(), config, "")
    for key, value, limits in _limited(RunConfig(), config, ""):
        low, high, allowed = limits.get("low"), limits.get("high"), limits.get("allowed")
        if allowed and value not in allowed:
            raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}{nearest(str(value), allowed)}")
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            limit = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{key}={value}: must be {limit}")
    _check_devices(config.trainer.devices)
    if any(not tag.strip() for tag in config.tags or ()):
        raise ConfigError("tags has an empty one; give words as in tags=[ablation,rank4], none by tags=[]")
    for group in (*GROUPS, *INJECTED):
        for key in sorted(OmegaConf.missing_keys(config[group])):
            raise ConfigError(f"{key} is required; give it as {key}=...")
    for key, value in _numbers(OmegaConf.to_container(config, resolve=True), ""):
        if not math.isfinite(value):
            raise ConfigError(f"{key}={value}: must be a finite number")


def _check_devices(devices: Any) -> None:
    """Compares `trainer.devices` with what Lightning takes.

    Raises:
        ConfigError: neither a number, nor auto, nor a list of their numbers.
    """
    text = ",".join(map(str, devices)) if OmegaConf.is_list(devices) else str(devices)
    if devices == 0 or not re.fullmatch(r"auto|-1|[0-9]+(, *[0-9]+)*", text):
        raise ConfigError(
            f"trainer.devices={devices}: must be a number of devices from 1 on, auto, or a list as [0,1] says which"
        )


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """The fractions in nested settings, by dotted key."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in parts:
            yield from _numbers(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, float):
        yield key, value


def _refuse_unread(schema: Any, config: DictConfig, prefix: str) -> None:
    """Refuses a key that the schema does not have: Hydra's `+` adds any, and nothing would come of it."""
    members = {member.name: getattr(schema, member.name) for member in fields(schema)}
    for key in map(str, config):
        if key not in members and (prefix or key != "hydra"):
            hint = nearest(key, list(members)) or nearest(key, _places(RunConfig(), ""), cutoff=0.7)
            raise ConfigError(f"{prefix}{key} is unknown; there are: {', '.join(members)}{hint}")
    for name, default in members.items():
        if is_dataclass(default):
            _refuse_unread(default, config[name], f"{prefix}{name}.")


def _places(schema: Any, prefix: str) -> dict[str, str]:
    """The whole key of each name in the schema, the outermost where several have the name."""
    own: dict[str, str] = {}
    inner: dict[str, str] = {}
    for member in fields(schema):
        default, place = getattr(schema, member.name), f"{prefix}{member.name}"
        if is_dataclass(default):
            inner |= _places(default, f"{place}.")
        else:
            own[member.name] = place
    return inner | own


def _limited(schema: Any, config: DictConfig, prefix: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for member in fields(schema):
        default = getattr(schema, member.name)
        if is_dataclass(default):
            yield from _limited(default, config[member.name], f"{prefix}{member.name}.")
        elif member.metadata:
            yield prefix + member.name, config[member.name], member.metadata


def check_group(group: str, node: DictConfig) -> None:
    """Compares a group's keys and values with the signature of what it names, without calling it.

    Raises:
        ConfigError: an unknown key, a missing one, a wrong type, or a value outside the annotated limits.
    """
    values: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]  # a mapping
    name = values.pop("_target_", None)
    values.pop("_partial_", None)
    if not isinstance(name, str):
        raise ConfigError(f"{group} names no _target_ to build")
    try:
        target = get_object(name)
    except Exception as error:  # hydra raises plain Exception subclasses here
        raise ConfigError(f"{group}._target_={name} cannot be imported: {error}") from error
    known = signature_of(target)
    neutral = values.pop(NEUTRAL, {})
    for key in (*values, *neutral):
        if key not in known:
            there = f"there are: {', '.join(known)}" if known else f"{name.rpartition('.')[2]} has no options"
            raise ConfigError(f"{group}.{key} is unknown; {there}{nearest(key, list(known))}")
    parts = [key for key, value in values.items() if _is_part(value)]
    for key in parts:
        if isinstance(values[key], list):
            for index, member in enumerate(node[key]):
                check_group(f"{group}.{key}[{index}]", member)
        else:
            check_group(f"{group}.{key}", node[key])
    if name.startswith("torch."):  # whose annotations do not say what may stand in a file
        for key, value in values.items():
            if isinstance(value, str) and isinstance(known[key].default, int | float):
                raise ConfigError(f"{group}.{key}={value}: must be a number")
    else:
        _check_types(group, target, known, values, parts)


def _is_part(value: Any) -> bool:
    """Whether a value is to be built from a node that names a constructor, or a list of such."""
    if isinstance(value, list):
        return bool(value) and all(_is_part(member) for member in value)
    return isinstance(value, dict) and "_target_" in value


def _check_gives(key: str, part: Any, target: Any, wanted: Any) -> None:
    """Compares what a part is, or gives, with what is asked for where both are plain classes."""
    try:
        given = part if inspect.isclass(part) else typing.get_type_hints(part).get("return")
    except (NameError, TypeError):  # annotations that only a type checker reads
        return
    both = [one for one in (given, wanted) if inspect.isclass(one) and one is not Any and not is_protocol(one)]
    if len(both) == 2 and not issubclass(*both):
        said, asked = ((inspect.getdoc(one) or one.__name__).split(".")[0] for one in both)
        raise ConfigError(f"{key}: {target.__name__} takes {asked!r}, this is {said!r}")


def _check_types(
    group: str, target: Any, known: Mapping[str, inspect.Parameter], values: dict[str, Any], parts: list[str]
) -> None:
    """Compares values with annotations; of `parts`, what the constructors they name say to give."""
    import pydantic  # which only checks of constructors wait for

    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    for key in parts:
        listed = isinstance(values[key], list)
        wanted = (*typing.get_args(hints.get(key)), Any)[0] if listed else hints.get(key)
        for part in values[key] if listed else [values[key]]:
            if part.get("_partial_"):  # the target gives the rest, and calls it
                continue
            _check_gives(f"{group}.{key}", get_object(part["_target_"]), target, wanted)
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
