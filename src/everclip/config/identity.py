"""What a configuration is known by: its digest, the names of its choices, the folder of its run."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from everclip.config.compatibility import lasting, lasting_shared
from everclip.config.schema import GROUPS, RunConfig, TrainConfig
from everclip.digest import json_sha256


def choices(node: DictConfig) -> dict[str, str]:
    """The chosen option of each group, from Hydra's own node; a sequence over any data set is named with it."""
    chosen = {group: str(node.runtime.choices[group]) for group in (*GROUPS, "trainer", "logger")}
    if dataset := node.runtime.choices.get("sequence/dataset"):
        chosen["sequence"] += f"_{dataset}"
    return chosen


def digest(config: DictConfig) -> str:
    """8 hex digits over every setting that can change a result, apart from the seed."""
    placeless = config.copy()
    for place in placeless.paths:  # places are no settings
        placeless.paths[place] = ""
    placeless.seed = 0  # a sequence may follow the run's seed
    plain: dict[str, Any] = {key: OmegaConf.to_container(placeless[key], resolve=True) for key in (*GROUPS, "train")}
    settings = {group: lasting(plain[group]) for group in GROUPS}
    settings["train"] = lasting_shared(TrainConfig(), plain["train"])
    later = {member.name: member.metadata["neutral"] for member in fields(RunConfig) if "neutral" in member.metadata}
    active = {key: config[key] for key, neutral in later.items() if config[key] != neutral}
    return json_sha256([settings, config.max_sessions, config.trainer.precision, *([active] if active else [])])[:8]


def run_folder(config: DictConfig) -> Path:
    """The folder of a run, from a configuration with its `hydra` node."""
    chosen = choices(config.hydra)
    names = [Path(chosen[group]).name for group in ("sequence", "method", "backbone")]
    return Path(config.paths.outputs, *names, digest(config), f"seed{config.seed}").absolute()
