"""Composing a configuration and building objects from it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from everclip.config.compatibility import options
from everclip.config.identity import run_folder
from everclip.config.reading import Reading
from everclip.config.schema import RunConfig, conf_dir
from everclip.errors import ConfigError


@cache
def register() -> None:
    """Makes schema and resolvers known to Hydra and OmegaConf."""
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: str(run_folder(_root_)), replace=True)


def compose(overrides: Sequence[str], reading: Reading | None = None) -> DictConfig:
    """The root configuration with its `hydra` node, as the command line would compose it.

    Args:
        overrides: words of a command.
        reading: of configuration files, for many that are composed.
    """
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        if reading is not None:
            reading.serve(GlobalHydra.instance().config_loader())
        return hydra.compose("run", list(overrides), return_hydra_config=True)


def build(group: str, node: DictConfig, *positional: Any, **runtime: Any) -> Any:
    """The object a group names, made of the configured keywords and of runtime arguments.

    Raises:
        ConfigError: the constructor refuses a value.
    """
    # Hydra resolves what a node points to in place, so it gets a node of its own.
    alone = OmegaConf.create(options(OmegaConf.to_container(node, resolve=True)))
    try:
        return instantiate(alone, _partial_=True, _convert_="all")(*positional, **runtime)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{group}: {error}") from error
    except InstantiationException as error:  # Hydra's wrapping of what a nested part raised
        nested = error.__cause__ or error
    if isinstance(nested, ValueError | TypeError):
        raise ConfigError(f"{group}: {nested}") from nested
    raise nested  # with its own cause
