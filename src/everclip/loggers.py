"""Mirrors of a run for other tools: CSV, TensorBoard, W&B. The run folder itself stays the record.

A mirror is filled anew from the record when a run goes on, because none of them can be cut back to a step: W&B does not
resume offline runs (wandb/wandb issue 2423), and TensorBoard's purging knows one axis, not steps and sessions.
"""

from __future__ import annotations

import csv
import logging
import netrc
import os
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip import storage

log = logging.getLogger("everclip")


@dataclass(frozen=True)
class Sample:
    """One test picture and what the method takes it for.

    Attributes:
        image: (H, W, 3) uint8.
        label: true class name.
        guesses: the likeliest class names with their probability, best first.
    """

    image: NDArray[np.uint8]
    label: str
    guesses: tuple[tuple[str, float], ...]


class RunLogger:
    """One mirror; by default it ignores everything."""

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        """Training metrics (`train/...`) at a global step."""

    def session(self, metrics: Mapping[str, float], index: int, step: int, samples: Sequence[Sample] = ()) -> None:
        """Metrics (`session/...`) after a session that ended at a global step, and how some pictures were seen."""

    def checkpoint(self, path: Path, session: int) -> None:
        """A session's checkpoint was written; told before the session itself."""

    def final(self, summary: Mapping[str, float], plots: Sequence[Path], matrix: Any, confusion: Any) -> None:
        """Scalars of the whole run, figures, and tables.

        Args:
            summary: by name, without `final/`.
            plots: figures; each as PNG and PDF.
            matrix: (T, J) accuracy in %, NaN where not evaluated.
            confusion: (S, S) test pictures by the session of their class and of the class they were taken for.
        """

    def flush(self) -> None:
        """What was told so far must survive the process; called right before a checkpoint is written."""

    def close(self, failed: bool = False) -> None:
        """Nothing more will come from this process, `failed` if the run did not reach its end."""


class CsvLogger(RunLogger):
    """`train.csv` with one line per value: step, name, value. The record that other mirrors are filled from.

    Args:
        folder: the run folder.
        step: to go on from; later lines will be written again and are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "train.csv"
        kept = [row for row in _read_rows(path) if int(row[0]) <= step]
        self.history = [
            (int(at), {name: float(value) for _, name, value in rows})
            for at, rows in groupby(kept, key=lambda row: row[0])
        ]
        storage.write_text(path, "".join(",".join(row) + "\n" for row in (["step", "name", "value"], *kept)))
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        self._writer.writerows([[step, name, repr(value)] for name, value in metrics.items()])

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, failed: bool = False) -> None:
        self._file.close()


def _read_rows(path: Path) -> list[list[str]]:
    """The whole lines below the header; a kill can leave half a line at the end."""
    if not path.is_file():
        return []
    rows = csv.reader(path.read_text(encoding="utf-8", errors="replace").splitlines()[1:])
    return [row for row in rows if len(row) == 3 and row[0].isdecimal()]


class TensorBoardLogger(RunLogger):
    """Event files in `tensorboard/`, begun anew with every process; `final/*` at step 0."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def session(self, metrics: Mapping[str, float], index: int, step: int, samples: Sequence[Sample] = ()) -> None:
        self.train(metrics, index)

    def final(self, summary: Mapping[str, float], plots: Sequence[Path], matrix: Any, confusion: Any) -> None:
        self.train({f"final/{name}": value for name, value in summary.items()}, 0)

    def close(self, failed: bool = False) -> None:
        self._writer.close()


def start_wandb(
    folder: Path,
    *,
    run_id: str,
    name: str,
    group: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    project: str,
    entity: str | None,
    mode: str,
) -> Any:
    """The W&B run of a run folder, resumed if online, begun anew in place of the earlier record if offline.

    Args:
        folder: where W&B keeps its files.
        run_id: the same for the same run folder.
        name: of the run.
        group: runs that are compared.
        tags: to filter by.
        config: the composed configuration.
        project: of W&B.
        entity: user or team, None for the default.
        mode: `online`, `offline`, or `auto`: what `WANDB_MODE` says, else online if logged in.
    """
    import wandb

    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    for earlier in folder.glob(f"wandb/offline-run-*-{run_id}"):
        shutil.rmtree(earlier, ignore_errors=True)
    return wandb.init(
        id=run_id,
        resume="allow" if mode == "online" else None,
        name=name,
        group=group,
        tags=tags,
        project=project,
        entity=entity,
        mode=mode,  # type: ignore[arg-type]  # checked by the schema
        dir=str(folder),
        config=dict(config),
        settings=wandb.Settings(silent=True, console="off"),
    )


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    return False


def best_of(name: str) -> str | None:
    """Which value of a metric W&B's summary shows besides the last: `max`, `min`, or none of them."""
    if any(word in name for word in ("forgetting", "performance_drop", "_seconds", "memory")):
        return "min"
    return "max" if any(word in name for word in ("accuracy", "average", "transfer", "_mean", "per_second")) else None


class WandbLogger(RunLogger):
    """One W&B run per run folder: `train/*` over the step, `session/*` over the session, `final/*` as summary.

    Args:
        run: from `start_wandb`; points that it holds already are not sent again.
        log_model: store every session's checkpoint as an artifact.
    """

    def __init__(self, run: Any, log_model: bool) -> None:
        import wandb

        self._wandb = wandb
        self._run = run
        self._log_model = log_model
        self._held = {axis: run.summary.get(axis, -1) for axis in ("train/step", "session/index")}
        self._ended = run.summary.get("final/last_accuracy") is not None
        run.define_metric("train/*", step_metric="train/step")
        run.define_metric("session/*", step_metric="session/index")
        self._defined: set[str] = set()

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        if step > self._held["train/step"]:
            for name in metrics.keys() - self._defined - {"train/lr"}:
                self._define(name, "train/step", "min")
            self._run.log({**metrics, "train/step": step})

    def session(self, metrics: Mapping[str, float], index: int, step: int, samples: Sequence[Sample] = ()) -> None:
        if index > self._held["session/index"]:
            for name in metrics.keys() - self._defined:
                self._define(name, "session/index", best_of(name))
            pictures = [self._wandb.Image(sample.image, caption=_caption(sample)) for sample in samples]
            seen = {"session/samples": pictures} if pictures else {}
            self._run.log({**metrics, **seen, "session/index": index})

    def _define(self, name: str, axis: str, best: str | None) -> None:
        self._defined.add(name)
        if best is not None:
            self._run.define_metric(name, step_metric=axis, summary=f"last,{best}")

    def checkpoint(self, path: Path, session: int) -> None:
        if self._log_model and session > self._held["session/index"]:
            artifact = self._wandb.Artifact(f"checkpoint-{self._run.id}", type="model", metadata={"session": session})
            artifact.add_file(str(path))
            self._run.log_artifact(artifact, aliases=["latest", path.stem])

    def final(self, summary: Mapping[str, float], plots: Sequence[Path], matrix: Any, confusion: Any) -> None:
        if self._ended:
            return
        tasks = [f"task_{task:02d}" for task in range(matrix.shape[1])]
        rows = [
            [index, *(None if np.isnan(v) else float(v) for v in row)] for index, row in enumerate(np.asarray(matrix))
        ]
        counts = [[f"{true:02d}", f"{taken:02d}", int(count)] for (true, taken), count in np.ndenumerate(confusion)]
        fields = {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"}
        self._run.log(
            {f"plots/{path.stem}": self._wandb.Image(str(path)) for path in plots if path.suffix == ".png"}
            | {
                "accuracy_matrix": self._wandb.Table(columns=["session", *tasks], data=rows),
                "confusion_between_sessions": self._wandb.plot_table(
                    "wandb/confusion_matrix/v1",
                    self._wandb.Table(columns=list(fields), data=counts),
                    fields,
                    {"title": "test pictures by session of their class"},
                ),
            }
        )
        self._run.summary.update({f"final/{name}": value for name, value in summary.items()})

    def close(self, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))


def _caption(sample: Sample) -> str:
    return f"{sample.label}: " + ", ".join(f"{name} {probability:.2f}" for name, probability in sample.guesses)


class Loggers(RunLogger):
    """The record of training losses and its mirrors as one; a mirror that fails is dropped, never the run.

    When a run goes on, the sessions that are done must be told again, in order: the mirrors get them and the recorded
    losses in between.

    Args:
        csv: the record; None without any mirror.
        mirrors: empty ones.
    """

    def __init__(self, csv: CsvLogger | None = None, mirrors: Sequence[RunLogger] = ()) -> None:
        self._history = deque(csv.history if csv else ())
        self._mirrors = list(mirrors)
        self._members: list[RunLogger] = [*([csv] if csv else []), *mirrors]

    def _each(self, members: Sequence[RunLogger], action: str, *arguments: Any) -> None:
        for member in [member for member in members if member in self._members]:
            try:
                getattr(member, action)(*arguments)
            except Exception as error:  # noqa: BLE001 (a mirror may fail in any way)
                log.warning("%s stopped logging: %s", type(member).__name__, error)
                self._members.remove(member)

    def _catch_up(self, step: int) -> None:
        """Tells the mirrors what was recorded up to `step`."""
        while self._history and self._history[0][0] <= step:
            at, metrics = self._history.popleft()
            self._each(self._mirrors, "train", metrics, at)

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        self._catch_up(step)
        self._each(self._members, "train", metrics, step)

    def session(self, metrics: Mapping[str, float], index: int, step: int, samples: Sequence[Sample] = ()) -> None:
        self._catch_up(step)
        self._each(self._members, "session", metrics, index, step, samples)

    def checkpoint(self, path: Path, session: int) -> None:
        self._each(self._members, "checkpoint", path, session)

    def final(self, summary: Mapping[str, float], plots: Sequence[Path], matrix: Any, confusion: Any) -> None:
        self._each(self._members, "final", summary, plots, matrix, confusion)

    def flush(self) -> None:
        self._each(self._members, "flush")

    def close(self, failed: bool = False) -> None:
        if self._history:
            self._catch_up(self._history[-1][0])
        self._each(self._members, "close", failed)
