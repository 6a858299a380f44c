"""The command that a run was started with, for where its folder lies now."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def quoted(path: Path) -> str:
    """A path as a value in Hydra's grammar."""
    if re.fullmatch(r"[\w/.+-]+", str(path)):
        return str(path)
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def flags_of(words: list[str]) -> list[str]:
    """Of a command's words those that are flags or their values, as `--config-dir my_conf`, but for a sweep's `-m`."""
    given = [word for word in words if word[:1] == "-" or not (word[:1] == "~" or "=" in word)]
    return [word for word in given if word not in ("-m", "--multirun")]


def without_once(words: Iterable[str]) -> list[str]:
    """A command's words but for those that are meant for its first start: they would remove what there is by now."""
    return [word for word in words if word.lstrip("+").partition("=")[0] not in ("restart", "force")]


def command(folder: Path, facts: Mapping[str, Any]) -> str | None:
    """What makes or goes on with a run, called from the current folder; None where its `run.json` does not tell."""
    if "overrides" not in facts:
        return None
    names = [str(facts.get(key)) for key in ("sequence", "method", "backbone", "digest")]
    kept = [word for word in without_once(facts["overrides"]) if not word.startswith("paths.outputs=")]
    return shlex.join(["everclip", *flags_of(facts.get("command", [])[1:]), *kept, *_place(folder.absolute(), names)])


def _place(folder: Path, names: list[str]) -> list[str]:
    """The setting by which a run lands in its folder; none where it does so anyway."""
    if list(folder.parts[-5:-1]) != names:
        return [f"hydra.run.dir={quoted(_short(folder))}"]
    outputs = _short(folder.parents[4])
    return [] if outputs == Path("outputs") else [f"paths.outputs={quoted(outputs)}"]


def _short(path: Path) -> Path:
    """A path from the current folder on, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
