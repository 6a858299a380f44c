"""`eval=`: a stored session evaluated again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from everclip import storage
from everclip.commands.load import load_checkpoint
from everclip.commands.origin import confirm
from everclip.commands.parts import engine_settings
from everclip.commands.sequences import make_sequence, shorten
from everclip.errors import ConfigError
from everclip.metrics.protocol import read as read_protocol
from everclip.reporting.console import quieten_libraries
from everclip.runs.folder import RunFolder
from everclip.runs.scores import table_of
from everclip.training.engine import Engine
from everclip.training.evaluation import Judge
from everclip.training.records import task_rows

log = logging.getLogger("everclip")


def evaluate(config: DictConfig, hydra: DictConfig) -> None:
    """`eval=`: evaluates a stored session on the configured sequence and writes the result beside its checkpoint.

    `eval=session_03` means that session of the run that the rest of the command names, a path any checkpoint in a run
    folder, whose own backbone and method are used then. Of pairs, what compares with the start of a run is left out:
    the backbone as it was is not loaded.

    Raises:
        MissingError: no such checkpoint.
        ConfigError: a method that scores trained classes only, and a sequence of other classes; or the data of the run
            that the command names have changed.
    """
    quieten_libraries()
    own = Path(config.eval).name == config.eval
    name = f"{config.eval.removesuffix('.safetensors')}.safetensors"
    path = Path(hydra.runtime.output_dir, "checkpoints", name) if own else Path(config.eval).absolute()
    engine = Engine(**engine_settings(config))
    model = load_checkpoint(path, trust=config.trust)
    engine.place(model.method)
    sequence = make_sequence(config)
    if own:
        confirm(config, RunFolder(path.parent.parent), sequence)
    same = shorten(sequence, config).fingerprint() == model.facts["sequence"]
    if not same and not model.method.open_vocabulary:
        raise ConfigError(f"{path} scores its own classes only; eval needs the sequence it was trained on")
    if not same:
        log.info("not the sequence it was trained on: all of its %d tasks are evaluated", len(sequence.tasks))
    session = int(model.facts["session"]) if same else len(sequence.sessions) - 1
    result = Judge(engine, sequence, None if same else model.classes).evaluate(model.method, session)
    entry, rows = read_protocol(sequence.protocol).entry, task_rows(result, sequence)
    facts: dict[str, Any] = {
        "checkpoint": path.name,
        "sequence": sequence.name,
        "fingerprint": sequence.fingerprint(),
        entry: table_of([{"tasks": rows}]).pooled(entry, range(len(sequence.tasks))),
        "tasks": rows,
        "zero_shot_accuracy": result.held_out,
    }
    if engine.rank == 0:
        name = sequence.name if same else f"{sequence.name}-{facts['fingerprint'][:8]}"  # others may be called the same
        target = path.parent.parent / "evaluations" / f"{path.stem}_on_{name}.json"
        storage.write_json(target, facts)
        for row in facts["tasks"]:
            score = row["scores"][entry]
            log.info("%-16s %6.2f  (of %d)", row["name"], score["value"], score["count"])
        log.info("%-16s %6.2f", "all", facts[entry])
        log.info("%s", target)
