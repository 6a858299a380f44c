"""The data of a run, from a composed configuration. Imports neither backbones nor trainers, which take longest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from everclip.config.build import build
from everclip.config.checks import check_group
from everclip.config.schema import INJECTED
from everclip.data.reduced import limited, memorised
from everclip.data.validation import hold_out
from everclip.digest import json_sha256
from everclip.evaluation.image_search import with_image_search
from everclip.types import ClassTexts, Reference, TaskSequence


def make_sequence(config: DictConfig) -> TaskSequence:
    """The whole task sequence, with `validation=` in place of its test sets and less of it if asked for."""
    check_group("sequence", config.sequence)
    sequence: TaskSequence = build("sequence", config.sequence)
    if config.validation is not None:
        sequence = hold_out(sequence, config.validation)
    if config.limit is not None:
        sequence = limited(sequence, config.limit)
    if config.overfit is not None:
        sequence = memorised(sequence, config.overfit)
    return with_image_search(sequence) if config.image_search else sequence


def shorten(sequence: TaskSequence, config: DictConfig) -> TaskSequence:
    """The first `max_sessions` sessions."""
    return replace(sequence, sessions=sequence.sessions[: config.max_sessions])


def make_given(config: DictConfig) -> dict[str, Reference | ClassTexts]:
    """What a method asks for beside the sequence, by the name of its option."""
    return {name: build(name, config.method[name]) for name in INJECTED if name in config.method}


def require_data(configs: Iterable[DictConfig], found: set[str]) -> None:
    """Looks once for each of the data that several runs read, before any of them is started.

    Args:
        configs: of the runs.
        found: digests of settings whose data are there; those of these runs are added.

    Raises:
        EverclipError: as the first run without its data would.
    """
    for config in configs:
        whole: Any = OmegaConf.to_container(config, resolve=True)
        given = [whole["method"].get(name) for name in INJECTED]
        digest = json_sha256([whole["sequence"], whole["validation"], given])
        if digest not in found:
            make_sequence(config)
            make_given(config)
            found.add(digest)
