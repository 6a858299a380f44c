"""What a stored run's configuration may build: its folder may come from a stranger. Imports what it lets through."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everclip.config.compatibility import todays
from everclip.config.schema import INJECTED, conf_dir
from everclip.errors import ConfigError
from everclip.storage import check_yaml

BUILT = ("backbone", "method", "sequence", *INJECTED)


def trusted(
    source: Path, groups: Sequence[str], packages: Sequence[str] = (), values: Sequence[str] = ()
) -> DictConfig:
    """Groups of a stored configuration, of which nothing but parts of everclip can be built.

    A run stores what its settings came to, so an interpolation is not of its making; without any, what is checked here
    is what will be built.

    Args:
        source: `config.yaml` of a run folder.
        groups: to read; nothing else of the file is looked at.
        packages: besides everclip that may be named.
        values: names of numbers and switches to read beside them, None where there is none.

    Raises:
        ConfigError: unreadable, or a group is missing, holds an interpolation, or names something else to build.
    """
    try:
        check_yaml(source)
        stored = OmegaConf.to_container(OmegaConf.load(source))
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{source} cannot be read: {' '.join(str(error).split())}") from error
    stored = stored if isinstance(stored, dict) else {}
    found = {group: stored.get(group) for group in groups}
    for group in groups:
        if not isinstance(found.get(group), dict):
            raise ConfigError(f"{source} holds no settings of {group}; it is no run's configuration")
    for value in _leaves(found):
        if isinstance(value, str) and "${" in value:
            raise ConfigError(f"{source} holds the interpolation {value}, which everclip never stores; it is not built")
    found = todays(found)
    for group in groups:
        for name in [str(found[group].get("_target_")), *_targets(found[group])]:
            _check_target(source, name, packages)
    for name in values:
        found[name] = stored.get(name)
        if not isinstance(found[name], int | float | None):
            raise ConfigError(f"{source} holds {name}={found[name]!r}, which is no number")
    return OmegaConf.create(found)


@cache
def _own_parts() -> frozenset[str]:
    """What everclip's own options name to build."""
    files = [path for group in BUILT for path in (conf_dir() / group).rglob("*.yaml")]
    return frozenset(name for path in files for name in re.findall(r"_target_: ([\w.]+)", path.read_text()))


def _check_target(source: Path, name: str, packages: Sequence[str]) -> None:
    """Compares a name with what may be built, before anything is imported, then where the thing was written."""
    home = name.split(".")[0]
    if name in _own_parts():
        return
    if home in packages and str(getattr(get_object(name), "__module__", "")).split(".")[0] in packages:
        return
    raise ConfigError(
        f"{source} names {name}, which is neither a backbone nor a method of everclip; if you trust who wrote it, "
        f"load(..., trust=[{home!r}])"
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        yield value
        return
    for part in value:
        yield from _leaves(part)


def _targets(value: Any) -> Iterator[str]:
    """Every name to build."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from _targets(part)
