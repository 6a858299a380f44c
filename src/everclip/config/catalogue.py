"""What there is to choose, read from the configuration files and the constructors' sources."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from everclip.config.files import merged, read_file, replaced
from everclip.config.schema import GROUPS, conf_dir
from everclip.config.sources import Constructor, Imported, UnreadableError, Written
from everclip.errors import ConfigError


def read_option(group: str, name: str, dataset: str | None = None, *, own: Path | None = None) -> dict[str, Any]:
    """The node that `conf/<group>/<name>.yaml` puts under `group`, with a data set, otherwise uncomposed.

    Args:
        group: of options.
        name: of one.
        dataset: of a sequence over any; None: its default.
        own: a user's `--config-dir`, where files are looked for first.

    Raises:
        ConfigError: the file is no YAML, or holds no settings.
    """
    path = _file(group, name, own)
    own_settings = read_file(path)
    if group == "method" and isinstance(own_settings, dict):
        own_settings = own_settings.get(group)
    if not isinstance(own_settings, dict):
        raise ConfigError(f"{path} holds no settings{' under `method:`' if group == 'method' else ''}")
    if group == "method":
        return own_settings
    below: dict[str, Any] = {}
    for entry in own_settings.pop("defaults", ()) if group.startswith("sequence") else ():
        if isinstance(entry, dict):
            ((part, option),) = entry.items()
            part, _, place = part.removeprefix("override ").rpartition("/")[2].partition("@")
            chosen = dataset if part == "dataset" and dataset else option
            below = replaced(below, place or part, read_option(f"sequence/{part}", chosen, own=own))
        elif entry != "_self_":
            below = merged(below, read_option(group, entry, dataset, own=own))
    return merged(below, own_settings)


def _file(group: str, name: str, own: Path | None) -> Path:
    path = (own or conf_dir()) / group / f"{name}.yaml"
    return path if path.is_file() else conf_dir() / group / f"{name}.yaml"


def option_names(group: str, own: Path | None = None) -> list[str]:
    """The options of a group, sorted, with those of a user's `--config-dir`."""
    return sorted({path.stem for place in (own or conf_dir(), conf_dir()) for path in (place / group).glob("*.yaml")})


def describe(group: str, name: str, own: Path | None = None) -> dict[str, Any]:
    """Name, one line, family, options with defaults, source and needs of one option.

    A sequence over any data set may be named with it, as in a run's folder: `few_shot_dtd`.

    Raises:
        ConfigError: its file cannot be read, or names nothing that can be imported.
    """
    dataset = None
    if group == "sequence" and name not in option_names(group, own):
        (name, dataset), *_ = (
            (base, name.removeprefix(f"{base}_")) for base in option_names(group, own) if name.startswith(f"{base}_")
        )
    where = _file(group, name, own)
    comment = _comment(where)
    if group not in GROUPS:
        return {"name": name, "summary": comment, "family": "", "options": {}, "source": "", "needs": ""}
    node = read_option(group, name, dataset, own=own)
    if "_target_" not in node:
        raise ConfigError(f"{where} does not say what it is: _target_, the class or function to call, is missing")
    options = {key: value for key, value in node.items() if key != "_target_"}

    def told(target: Constructor) -> dict[str, Any]:
        first = target.module.split("\n")[0]
        return {
            "name": name,
            "summary": first if group == "method" else comment or first,
            "family": _said("Family", target.module).removesuffix("."),
            "options": {
                key: _short(options[key] if key in options else target.default(key)) for key in target.options()
            },
            "source": _said("Source", target.module),
            "needs": f"data set {dataset}" if dataset else _needs(group, where, target, options),
        }

    try:
        return told(Written(node["_target_"]))
    except UnreadableError:
        try:
            target = Imported(node["_target_"])
        except Exception as error:  # hydra raises plain Exception subclasses here
            raise ConfigError(f"{where} names {node['_target_']}, which cannot be imported") from error
        return told(target)


def _said(title: str, module: str) -> str:
    """What a module's docstring says under a title, on one line; empty if it does not."""
    found = re.search(rf"^{title}: (.*?)(?=^\w+:|^$|\Z)", module, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _short(value: Any) -> Any:
    """A value for reading: a node that names a reader of a data set as the data set's name."""
    if isinstance(value, list):
        return [_short(member) for member in value]
    return _dataset(value) if isinstance(value, dict) and "_target_" in value else value


def _dataset(node: dict[str, Any]) -> str:
    """`cifar100` for a node that names `everclip.data.datasets.cifar100.load`, or what its reader is told to read."""
    module, function = str(node["_target_"]).split(".")[-2:]
    return str(node.get("key", module)) if function == "load" else function.removesuffix("_dataset")


def _comment(path: Path) -> str:
    lines = path.read_text().splitlines()
    return next((line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line), "")


def _needs(group: str, path: Path, target: Constructor, options: dict[str, Any]) -> str:
    if group == "method":
        kept = {"exemplars": "exemplars of earlier sessions", "all": "all data seen so far"}.get(target.trait("sees"))
        others = [kind for trait, kind in target.trait("others").items() if target.trait(trait)]
        learnt = "" if target.trait("any_objective") else " or ".join(["class labels", *others])
        return ", ".join(filter(None, [learnt, kept]))
    if group == "backbone":
        if "run" in options:
            return "a finished run"
        if options["model"] == "???":
            return "a configuration and weights of your own"
        return "" if options["weights"] == "embedded" else f"weights {options['tag']} of {options['model']}"
    several = (options.get(key) or () for key in ("targets", "domains", "unseen"))
    nodes = [*(options.get(key) for key in ("source", "base", "stream")), *(node for own in several for node in own)]
    if read := [_dataset(node) for node in nodes if isinstance(node, dict) and str(node["_target_"]).endswith(".load")]:
        return f"data sets {', '.join(read)}"
    if "dataset" in options and "defaults" in read_file(path):
        return f"the data set chosen as sequence/dataset={'|'.join(option_names('sequence/dataset'))}"
    if "dataset" in options:
        return f"data set {_dataset(options['dataset'])}"
    return "pictures of your own" if options.get("root") == "???" or "file" in options else ""
