"""Mirrors of a run for other tools: CSV, TensorBoard, W&B. The run folder itself stays the record."""

from __future__ import annotations

import csv
import logging
import netrc
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from everclip import storage

log = logging.getLogger("everclip")


class RunLogger:
    """One mirror; by default it ignores everything."""

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        """Training metrics (`train/...`) at a global step."""

    def flush(self) -> None:
        """Everything so far must last: the run will go on from here if it is killed."""

    def session(self, metrics: Mapping[str, float], index: int) -> None:
        """Metrics (`session/...`) after a session."""

    def final(self, summary: Mapping[str, Any], plots: Sequence[Path]) -> None:
        """Scalars of the whole run (`final/...`) and figures."""

    def checkpoint(self, path: Path, session: int) -> None:
        """A session's checkpoint was written."""

    def close(self) -> None:
        """Nothing more will come."""


class CsvLogger(RunLogger):
    """`train.csv` with one line per value: step, name, value. A resumed run drops the lines it will write again."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "train.csv"
        kept: list[list[str]] = []
        if path.is_file():
            with path.open(newline="") as old:
                kept = [row for row in list(csv.reader(old))[1:] if len(row) == 3 and int(row[0]) <= step]
        storage.write_text(path, "".join(",".join(row) + "\n" for row in (["step", "name", "value"], *kept)))
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        self._writer.writerows([[step, name, repr(value)] for name, value in metrics.items()])

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorBoardLogger(RunLogger):
    """Event files in `tensorboard/`."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def session(self, metrics: Mapping[str, float], index: int) -> None:
        self.train(metrics, index)

    def close(self) -> None:
        self._writer.close()


class WandbLogger(RunLogger):
    """One W&B run per run folder: `train/*` over the step, `session/*` over the session, `final/*` as summary.

    Args:
        folder: where W&B keeps its files.
        run_id: the same for the same run folder, so that a resumed run goes on in the same W&B run.
        name: of the run.
        group: runs that differ in the seed only.
        config: the composed configuration.
        project: of W&B.
        entity: user or team, None for the default.
        mode: `online`, `offline`, `disabled`, or `auto`: what `WANDB_MODE` says, else online if logged in.
        log_model: store every session's checkpoint as an artifact.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_id: str,
        name: str,
        group: str,
        config: Mapping[str, Any],
        project: str,
        entity: str | None,
        mode: str,
        log_model: bool,
    ) -> None:
        import wandb

        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
        self._wandb = wandb
        self._log_model = log_model
        self._run = wandb.init(
            id=run_id,
            resume="allow",
            name=name,
            group=group,
            project=project,
            entity=entity,
            mode=mode,  # type: ignore[arg-type]  # checked by the schema
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("train/*", step_metric="train/step")
        self._run.define_metric("session/*", step_metric="session/index")

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, "train/step": step})

    def session(self, metrics: Mapping[str, float], index: int) -> None:
        self._run.log({**metrics, "session/index": index})

    def final(self, summary: Mapping[str, Any], plots: Sequence[Path]) -> None:
        self._run.summary.update({f"final/{name}": value for name, value in summary.items()})
        self._run.log({f"plots/{path.stem}": self._wandb.Image(str(path)) for path in plots if path.suffix == ".png"})

    def checkpoint(self, path: Path, session: int) -> None:
        if self._log_model:
            artifact = self._wandb.Artifact(f"checkpoint-{self._run.id}", type="model", metadata={"session": session})
            artifact.add_file(str(path))
            self._run.log_artifact(artifact, aliases=["latest", path.stem])

    def close(self) -> None:
        self._run.finish()


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    return False


class Loggers(RunLogger):
    """Several mirrors as one; a mirror that fails is dropped with a warning, never the run."""

    def __init__(self, members: Sequence[RunLogger]) -> None:
        self._members = list(members)

    def _each(self, action: str, *arguments: Any) -> None:
        for member in list(self._members):
            try:
                getattr(member, action)(*arguments)
            except Exception as error:  # noqa: BLE001 (a mirror may fail in any way)
                log.warning("%s stopped logging: %s", type(member).__name__, error)
                self._members.remove(member)

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        self._each("train", metrics, step)

    def flush(self) -> None:
        self._each("flush")

    def session(self, metrics: Mapping[str, float], index: int) -> None:
        self._each("session", metrics, index)

    def final(self, summary: Mapping[str, Any], plots: Sequence[Path]) -> None:
        self._each("final", summary, plots)

    def checkpoint(self, path: Path, session: int) -> None:
        self._each("checkpoint", path, session)

    def close(self) -> None:
        self._each("close")
