"""Runs as W&B keeps them, for tables where the run folders are elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from everclip.errors import MissingError
from everclip.reporting.results import Result
from everclip.reporting.stored import FACTS
from everclip.runs.scores import protocol_of


def read_wandb(project: str) -> list[Result]:
    """The finished Everclip runs of a W&B project.

    Args:
        project: `entity/project`.

    Raises:
        MissingError: W&B does not answer, or nobody is logged in.
    """
    import wandb

    try:
        results = []
        for run in wandb.Api(timeout=30).runs(project):
            facts = run.config.get("run") or {}
            if run.state == "finished" and all(fact in facts for fact in FACTS):
                entry = protocol_of(facts, {}).entry
                history = run.scan_history(keys=["session/index", f"session/{entry}"])
                own = {"commit": run.commit, "attempts": [{"start": run.created_at}]}
                results.append(to_result(Path(*run.path), own | facts, run.summary, history))
        return results
    except (wandb.errors.Error, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise MissingError(f"--wandb {project}: W&B cannot be read: {reason}") from error


def to_result(
    place: Path, facts: Mapping[str, Any], summary: Mapping[str, Any], history: Iterable[Mapping[str, Any]]
) -> Result:
    """What W&B keeps of a run (`place`: entity/project/id), as a run folder would say it."""
    entry = protocol_of(facts, {}).entry
    values = {int(row["session/index"]): float(row[f"session/{entry}"]) for row in history}
    curve = [values[index] for index in sorted(values)]
    final = {key.removeprefix("final/"): value for key, value in summary.items() if key.startswith("final/")}
    return Result(place, dict(facts), final | {f"{entry}_per_session": curve})
