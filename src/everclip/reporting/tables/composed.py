"""What overrides compose to, remembered between calls: composing takes Hydra a sixth of a second for each row."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from everclip import storage
from everclip.config import build, identity, schema
from everclip.digest import json_sha256

PLACES = ("paths.outputs=''", "paths.data=''", "paths.cache=''")  # no settings: never in a digest


class Composer:
    """Composes overrides, or recalls what they composed to with the same configuration files.

    The memory lies in the cache folder, and starts anew when a configuration file, the schema, Hydra, or an environment
    variable that the files read has changed.
    """

    def __init__(self) -> None:
        files = sorted(schema.conf_dir().rglob("*.yaml"))
        texts = [path.read_text() for path in (*files, *sorted(Path(schema.__file__).parent.glob("*.py")))]
        read = {name: os.environ.get(name) for text in texts for name in re.findall(r"oc\.env:(\w+)", text)}
        versions = [version("hydra-core"), version("omegaconf")]
        self._configuration = json_sha256([list(map(str, files)), texts, read, versions])
        places = OmegaConf.load(schema.conf_dir() / "paths" / "default.yaml")
        self._path = Path(places.cache) / "composed.json"
        self._facts: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):
            memory = json.loads(self._path.read_text())
            if memory["configuration"] == self._configuration:
                self._facts = memory["facts"]
        self._remembered = len(self._facts)

    def facts(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Digest, chosen names, and digests of the settings of data and backbone."""
        key = json.dumps(list(overrides))
        if key not in self._facts:
            self._facts[key] = _compose(overrides)
        return self._facts[key]

    def save(self) -> None:
        """Keeps what was composed for the next call, where the cache folder can be written."""
        if len(self._facts) == self._remembered:
            return
        with suppress(OSError):
            storage.write_json(self._path, {"configuration": self._configuration, "facts": self._facts})


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    composed = build.compose([*overrides, *PLACES])
    chosen = identity.names_of(composed, composed.hydra)
    data, backbone = (OmegaConf.to_container(composed[group], resolve=True) for group in ("sequence", "backbone"))
    return {
        "digest": identity.digest(composed),
        "names": [chosen[group] for group in ("method", "backbone", "sequence")],
        "data": json_sha256([data, composed.max_sessions]),
        "backbone": json_sha256(backbone),
    }
