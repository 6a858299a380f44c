"""Configuration files as they are written, uncomposed: read without OmegaConf, which takes twenty times as long."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from everclip.errors import ConfigError
from everclip.storage import YAML


class _Loader(YAML):
    """Takes words for what OmegaConf takes them: `1e-3` is a number, a date a text; a key may be there once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"duplicate key {twice}{str(node.start_mark).rstrip()}")
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_Loader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for sign, known in YAML.yaml_implicit_resolvers.items()
}
WITH_EXPONENT = re.compile(r"[-+]?\d[\d_]*\.?[\d_]*[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", WITH_EXPONENT, list("-+0123456789"))


def read_file(path: Path) -> Any:
    """The content of a file; interpolations and `???` are texts.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is no YAML.
    """
    content = path.read_text(encoding="utf-8")
    try:
        return yaml.load(content, _Loader) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def merged(below: Any, above: Any) -> Any:
    """Settings with others put over them: mappings key by key, anything else as a whole."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: merged(below.get(key), value) for key, value in above.items()}


def replaced(settings: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Settings with another value at a dotted key."""
    key, _, rest = place.partition(".")
    return settings | {key: replaced(settings.get(key, {}), rest, value) if rest else value}
