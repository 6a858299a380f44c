"""What a run was made from: recorded when it begins, compared when the same command comes again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from everclip.commands.sequences import make_given, make_sequence, shorten
from everclip.config.build import build
from everclip.digest import json_sha256
from everclip.errors import ConfigError, DataError, MissingError, StorageError
from everclip.runs import inputs
from everclip.runs.folder import RunFolder
from everclip.types import Reference, TaskSequence

log = logging.getLogger("everclip")

# What a run is known to be made from, by its key in `run.json`, and what that is called.
COMPARED = {
    "fingerprint": "the task sequence's data",
    "contents": "what the files of the task sequence's data hold",
    "given": "the method's reference or class texts",
    "weights": "the backbone's weights",
    "precision": "the precision",
}


def data_of(config: DictConfig, sequence: TaskSequence) -> dict[str, Any]:
    """Facts about what a run reads beside its weights.

    Args:
        config: of the run.
        sequence: the sessions that it runs.

    Raises:
        DataError: a file cannot be read.
    """
    given = make_given(config)
    references = [part.images for part in given.values() if isinstance(part, Reference)]
    files = list(dict.fromkeys([*sequence.files(), *(path for images in references for path in images.files)]))
    try:
        contents = inputs.contents_sha256(files) if files else None
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    return {
        "fingerprint": sequence.fingerprint(),
        "contents": contents,
        "given": json_sha256({name: part.fingerprint() for name, part in given.items()}) if given else None,
        "inputs": inputs.stamped(inputs.places(files, _named(config, "backbone", "sequence", "method"))),
    }


def _named(config: DictConfig, *groups: str) -> list[Path]:
    """Files and folders that settings name, but for those whose content is no setting."""
    values = (OmegaConf.to_container(config[group], resolve=True) for group in groups)
    texts = dict.fromkeys(text for value in values for text in _texts(value) if text not in config.paths.values())
    return [Path(place) for place in map(os.path.expanduser, texts) if os.path.exists(place)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def require_same(folder: RunFolder, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compares what a run was made from with what there is now.

    Args:
        folder: of the run.
        begun: its facts; what it does not say is not compared, older versions said less.
        now: facts of the same kind, without those that are not known.

    Raises:
        ConfigError: something is another; results of both must not be mixed.
    """
    changed = inputs.changed(begun.get("inputs") or ())
    where = f" ({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''})" if changed else ""
    for key, words in COMPARED.items():
        was, value = (_known(facts.get(key)) for facts in (begun, now))
        if None not in (was, value) and was != value:
            raise ConfigError(
                f"{folder.path} was begun with other values: {words} changed from {was[:16]} to {value[:16]}{where}; "
                "put back what was there, or begin anew with restart=true"
            )


def _known(fact: Any) -> Any:
    return fact.get("sha256") if isinstance(fact, dict) else fact


def confirm(config: DictConfig, folder: RunFolder, sequence: TaskSequence | None = None) -> None:
    """Looks closely whether a run's data and weights are still those it was made from, and notes that they are.

    A result outlives its data: of what is no longer there, a warning says that it was not compared.

    Args:
        config: of the run.
        folder: of the run.
        sequence: its whole sequence, if that is made already.

    Raises:
        ConfigError: they are not.
    """
    begun = folder.read_run()
    try:
        now = data_of(config, shorten(make_sequence(config) if sequence is None else sequence, config))
        require_same(folder, begun, now)
        if _weights_may_differ(config, begun):
            require_same(folder, begun, {"weights": build("backbone", config.backbone, load=True).provenance})
    except MissingError as error:
        log.warning("cannot be compared with what it was made from: %s", error)
        return
    if folder.state == "finished":  # nobody else writes there
        with suppress(StorageError):
            folder.update_run(inputs=now["inputs"])


def _weights_may_differ(config: DictConfig, begun: Mapping[str, Any]) -> bool:
    """Whether settings name the weights' file, and it is not known to be as it was."""
    if _known(begun.get("weights")) is None:  # nothing to compare with
        return False
    if (recorded := begun.get("inputs")) is None:
        return bool(_named(config, "backbone"))
    texts = _texts(OmegaConf.to_container(config.backbone, resolve=True))
    return bool({os.path.abspath(os.path.expanduser(text)) for text in texts} & set(inputs.changed(recorded)))
