"""What overrides compose to, remembered between calls: composing takes Hydra a sixth of a second for each row."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from everclip import storage
from everclip.config import schema
from everclip.digest import json_sha256

if TYPE_CHECKING:
    from everclip.config.reading import Reading

PLACES = ("paths.outputs=''", "paths.data=''", "paths.cache=''")  # no settings: never in a digest


class Composer:
    """Composes overrides, or recalls what they composed to while the files that they read are the same.

    The memory lies in the cache folder. A row is composed anew when a file that it reads, or looked for in vain, has
    changed, or an environment variable that such a file names; all rows are, when the schema or Hydra has.
    """

    def __init__(self) -> None:
        code = [path.read_text() for path in sorted(Path(schema.__file__).parent.glob("*.py"))]
        self._code = json_sha256([str(schema.conf_dir()), code, version("hydra-core"), version("omegaconf")])
        places = OmegaConf.load(schema.conf_dir() / "paths" / "default.yaml")
        self._path = Path(places.cache) / "composed.json"
        self._states: dict[str, str | None] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._changed = False
        with suppress(OSError, ValueError, KeyError):
            memory = json.loads(self._path.read_text())
            if memory["code"] == self._code:
                self._rows = memory["rows"]

    @cached_property
    def _reading(self) -> Reading:
        from everclip.config.reading import Reading  # loads Hydra, which what is recalled does not need

        return Reading()

    def facts(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Digest, chosen names, and digests of the settings of data and backbone."""
        key = json.dumps(list(overrides))
        row = self._rows.get(key)
        if row is None or any(self._state(path) != state for path, state in row["files"].items()):
            self._reading.asked.clear()
            composed = _compose(overrides, self._reading)
            row = {"facts": composed, "files": {path: self._state(path) for path in sorted(self._reading.asked)}}
            self._rows[key], self._changed = row, True
        facts: dict[str, Any] = row["facts"]
        return facts

    def _state(self, path: str) -> str | None:
        """Digest of a configuration file, and of the environment variables that it names; None if it is not there."""
        if path not in self._states:
            self._states[path] = None
            with suppress(OSError):
                text = (schema.conf_dir() / f"{path.removesuffix('.yaml')}.yaml").read_text()
                read = {name: os.environ.get(name) for name in re.findall(r"oc\.env:(\w+)", text)}
                self._states[path] = json_sha256([text, read])
        return self._states[path]

    def save(self) -> None:
        """Keeps what was composed for the next call, where the cache folder can be written."""
        if self._changed:
            with suppress(OSError):
                storage.write_json(self._path, {"code": self._code, "rows": self._rows})


def _compose(overrides: Sequence[str], reading: Reading) -> dict[str, Any]:
    from everclip.config import build, identity

    composed = build.compose([*overrides, *PLACES], reading)
    chosen = identity.names_of(composed, composed.hydra)
    data, backbone = (OmegaConf.to_container(composed[group], resolve=True) for group in ("sequence", "backbone"))
    return {
        "digest": identity.digest(composed),
        "names": [chosen[group] for group in ("method", "backbone", "sequence")],
        "data": json_sha256([data, composed.max_sessions]),
        "backbone": json_sha256(backbone),
    }
