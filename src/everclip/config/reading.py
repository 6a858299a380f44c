"""Configuration files as they were when they were first read, for all that is composed from them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from typing_extensions import override


@dataclass
class Reading:
    """What was read of configuration files; to read and parse them is a third of the time that composing takes.

    Attributes:
        kept: contents by sources and path.
        asked: paths that were looked for since somebody has cleared it, found or not.
    """

    kept: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    def serve(self, loader: Any) -> None:
        """Lets a loader of Hydra read a file from here from the second time on."""
        loader.repository = _Repository(loader.repository, self)


class _Repository(IConfigRepository):
    def __init__(self, inner: IConfigRepository, reading: Reading) -> None:
        self._inner, self._reading = inner, reading

    def __deepcopy__(self, memory: dict[int, Any]) -> _Repository:
        # Sources are only ever replaced, all of them; to copy Hydra's store with them takes as long as to read a file.
        return _Repository(copy.copy(self._inner), self._reading)

    @override
    def load_config(self, config_path: str) -> ConfigResult | None:
        self._reading.asked.add(config_path)
        key = (*(source.path for source in self.get_sources()), config_path)
        if key not in self._reading.kept:
            self._reading.kept[key] = pickle.dumps(self._inner.load_config(config_path))
        found: ConfigResult | None = pickle.loads(self._reading.kept[key])  # Hydra changes what it gets
        return found

    @override
    def config_exists(self, config_path: str) -> bool:
        self._reading.asked.add(config_path)
        return self._inner.config_exists(config_path)

    @override
    def group_exists(self, config_path: str) -> bool:
        return self._inner.group_exists(config_path)

    @override
    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        return self._inner.get_group_options(group_name, results_filter)

    @override
    def get_schema_source(self) -> ConfigSource:
        return self._inner.get_schema_source()

    @override
    def get_sources(self) -> list[ConfigSource]:
        return self._inner.get_sources()

    @override
    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        self._inner.initialize_sources(config_search_path)
