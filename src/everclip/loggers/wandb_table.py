"""Tables kept at W&B."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from tempfile import TemporaryDirectory
from typing import Any

from everclip.errors import MissingError
from everclip.loggers.wandb import ANSWER, artifact_name, quiet

log = logging.getLogger("everclip")


def store_table(project: str, name: str, texts: Mapping[str, str], runs: Iterable[str]) -> None:
    """Keeps a table at W&B: as the artifact `table-<name>` of a run whose inputs are the last checkpoints of its runs.

    Args:
        project: `entity/project`.
        name: of the table.
        texts: of the artifact's files, by their names.
        runs: ids of the runs that are shown.

    Raises:
        MissingError: W&B does not answer, or nobody is logged in.
    """
    import wandb

    entity, _, own = project.rpartition("/")
    about: dict[str, Any] = {
        "entity": entity or None,
        "project": own,
        "name": f"table {name}",
        "job_type": "table",
        "mode": "online",
    }
    artifact = wandb.Artifact(artifact_name("table", name), type="table")
    for file, text in texts.items():
        with artifact.new_file(file, encoding="utf-8") as opened:
            opened.write(text)
    lacking = []
    try:
        with TemporaryDirectory() as folder, wandb.init(**about, dir=folder, settings=quiet()) as record:
            for run in runs:
                try:
                    record.use_artifact(f"{record.entity}/{own}/checkpoint-{run}:latest")
                except (wandb.errors.Error, ValueError):
                    lacking.append(run)
            record.log_artifact(artifact).wait(timeout=ANSWER)
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise MissingError(f"--store: W&B takes no table: {' '.join(str(error).split())}") from error
    if lacking:
        log.warning("W&B has no checkpoints of %s (logger.wandb.log_model=true stores them)", ", ".join(lacking))
