"""What a configuration is known by: its digest, the names of its choices, the folder of its run."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from everclip.config.compatibility import lasting, lasting_shared
from everclip.config.schema import GROUPS, DataConfig, RunConfig, TrainConfig
from everclip.digest import json_sha256


def choices(node: DictConfig) -> dict[str, str]:
    """The chosen option of each group, from Hydra's own node; a sequence over any data set is named with it."""
    chosen = {group: str(node.runtime.choices[group]) for group in (*GROUPS, "trainer", "logger")}
    if dataset := node.runtime.choices.get("sequence/dataset"):
        chosen["sequence"] += f"_{dataset}"
    return chosen


def names_of(config: DictConfig, node: DictConfig) -> dict[str, str]:
    """The `choices` with the sequence by its own name: runs on sequences of different names are never compared."""
    chosen = choices(node)
    return chosen | {"sequence": sequence_name(chosen["sequence"], config.sequence)}


def sequence_name(option: str, settings: DictConfig) -> str:
    """The name of a sequence: given, or that of its option; of a user's own pictures with the name of their place."""
    given = {key: settings[key] for key in ("name", "file", "root") if settings.get(key) not in (None, MISSING)}
    name = option
    if "name" in given:
        name = str(given["name"])
    elif "file" in given:
        name = f"{option}_{Path(given['file']).stem}"
    elif "root" in given:
        name = f"{option}_{Path(given['root']).expanduser().resolve().name}"
    return re.sub(r"[^\w.-]+", "_", name)


def digest(config: DictConfig) -> str:
    """8 hex digits over every setting that can change a result, apart from the seed."""
    placeless = config.copy()
    for place in placeless.paths:  # places are no settings
        placeless.paths[place] = ""
    placeless.data = OmegaConf.structured(DataConfig)  # how samples are read changes none
    placeless.seed = 0  # a sequence may follow the run's seed
    plain: dict[str, Any] = {key: OmegaConf.to_container(placeless[key], resolve=True) for key in (*GROUPS, "train")}
    settings = {group: lasting(plain[group]) for group in GROUPS}
    settings["train"] = lasting_shared(TrainConfig(), plain["train"])
    later = {member.name: member.metadata["neutral"] for member in fields(RunConfig) if "neutral" in member.metadata}
    active = {key: config[key] for key, neutral in later.items() if config[key] != neutral}
    return json_sha256([settings, config.max_sessions, config.trainer.precision, *([active] if active else [])])[:8]


def run_folder(config: DictConfig) -> Path:
    """The folder of a run, from a configuration with its `hydra` node."""
    names = names_of(config, config.hydra)
    inside = Path(*(Path(names[group]).name for group in ("method", "backbone")), digest(config), f"seed{config.seed}")
    sequences = (names["sequence"], choices(config.hydra)["sequence"])
    own, earlier = (Path(config.paths.outputs, Path(name).name, inside).absolute() for name in sequences)
    return earlier if (earlier / "run.json").is_file() else own  # earlier versions knew options alone
