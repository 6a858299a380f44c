"""What a configuration is known by: its digest, the names of its choices, the folder of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from everclip.config.schema import GROUPS
from everclip.digest import json_sha256

# Parts that moved, by the name they have in digests and in the configurations of older runs: where code lies changes no
# result, so a digest names a part as it was first called, and a stored configuration is read with today's names.
MOVED = {"everclip.schedules.Schedule": "everclip.training.schedules.Schedule"}
FIRST_NAMES = {today: first for first, today in MOVED.items()}


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
    settings = {key: _first_named(OmegaConf.to_container(placeless[key], resolve=True)) for key in (*GROUPS, "train")}
    judged = [] if config.validation is None else [{"validation": config.validation}]
    return json_sha256([settings, config.max_sessions, config.trainer.precision, *judged])[:8]


def run_folder(config: DictConfig) -> Path:
    """The folder of a run, from a configuration with its `hydra` node."""
    chosen = choices(config.hydra)
    names = [Path(chosen[group]).name for group in ("sequence", "method", "backbone")]
    return Path(config.paths.outputs, *names, digest(config), f"seed{config.seed}").absolute()


def _first_named(value: Any) -> Any:
    """Settings with every part called by its first name."""
    if isinstance(value, dict):
        target = {"_target_": FIRST_NAMES.get(value["_target_"], value["_target_"])} if "_target_" in value else {}
        return {key: _first_named(part) for key, part in value.items()} | target
    return [_first_named(part) for part in value] if isinstance(value, list) else value
