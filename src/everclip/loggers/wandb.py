"""W&B as a mirror."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip.loggers.base import RunLogger, Sample

log = logging.getLogger("everclip")
ANSWER = 30  # seconds that W&B has to take in a small artifact


def trial_id() -> str | None:
    """The id that an agent of a W&B sweep has given to this process's run; W&B takes no other there."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def quiet() -> Any:
    """Settings of W&B's client: it says nothing itself, and waits no longer than a command may."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", 30)),
        finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", 60)),
        finish_timeout_raises=True,
    )


def start_wandb(
    folder: Path,
    *,
    run_id: str,
    name: str,
    group: str,
    tags: Sequence[str],
    notes: str,
    config: Mapping[str, Any],
    project: str,
    entity: str | None,
    mode: str,
) -> Any:
    """The W&B run of a run folder, resumed if online, begun anew in place of the earlier record if offline.

    Where W&B cannot be reached or nobody is logged in, the record is an offline one. Where W&B is gone when an online
    run ends, that waits for `WANDB_FINISH_TIMEOUT` seconds, by default 60: half of what a cluster leaves to stop in.

    Args:
        folder: where W&B keeps its files.
        run_id: the same for the same run folder until it is begun anew.
        name: of the run.
        group: runs that are compared.
        tags: to filter by.
        notes: about the run; empty: as they are.
        config: the composed configuration.
        project: of W&B.
        entity: user or team, None for the default.
        mode: `online`, `offline`, or `auto`: what `WANDB_MODE` says, else online if logged in.
    """
    import wandb

    shown = quiet()
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in(shown) else "offline")
    for earlier in folder.glob(f"wandb/offline-run-*-{run_id}"):
        shutil.rmtree(earlier, ignore_errors=True)

    def start(mode: str) -> Any:
        return wandb.init(
            id=run_id,
            resume="allow" if mode == "online" else None,
            name=name,
            group=group,
            tags=tags,
            notes=notes or None,
            project=project,
            entity=entity,
            mode=mode,  # type: ignore[arg-type]  # checked by the schema
            dir=str(folder),
            config=dict(config),
            settings=shown,
        )

    try:
        return start(mode)
    except wandb.errors.Error as error:
        if mode != "online":
            raise
        reason = str(error).partition("\n")[0]
        log.warning("W&B: %s; recording offline, `wandb sync %s` sends it later", reason, folder / "wandb")
        wandb.teardown()  # which lets go of the id
        return start("offline")


def _logged_in(settings: Any) -> bool:
    """Whether W&B finds a key for its server, wherever it looks for one; asks nobody, sends nothing."""
    import wandb

    wandb.setup(settings=settings)
    return bool(wandb.login(prompt=False, verify=False))


def artifact_name(kind: str, name: str) -> str:
    """A name that W&B takes for an artifact."""
    allowed = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
    return f"{kind}-{allowed[:100]}"


def best_of(name: str) -> str | None:
    """Which value of a metric W&B's summary shows besides the last: `max`, `min`, or none of them."""
    if any(word in name for word in ("forgetting", "performance_drop", "_seconds", "memory")):
        return "min"
    high = ("accuracy", "average", "transfer", "_mean", "per_second", "recall", "_r1", "_r5", "miou")
    return "max" if any(word in name for word in high) else None


class WandbLogger(RunLogger):
    """One W&B run per run folder: `train/*` over the step, `session/*` over the session, `final/*` as summary.

    Args:
        run: from `start_wandb`; points that it holds already are not sent again.
        log_model: store every session's checkpoint as an artifact.
        data: what the run is trained on: `sequence`, and digests that tell it from others. Declared as the input of the
            run that the checkpoints come from, by an artifact that holds these lines alone; W&B takes that online only.
    """

    def __init__(self, run: Any, log_model: bool, data: Mapping[str, Any] | None = None) -> None:
        import wandb

        self._wandb = wandb
        self._run = run
        self._log_model = log_model
        self._held = {axis: run.summary.get(axis, -1) for axis in ("train/step", "session/index")}
        self._ended = any(key.startswith("final/") for key in run.summary.keys())  # noqa: SIM118 (no mapping)
        run.define_metric("train/*", step_metric="train/step")
        run.define_metric("session/*", step_metric="session/index")
        self._defined: set[str] = set()
        if data and not run.offline:
            self._artifact(self._use, data)

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
        if session > self._held["session/index"]:
            self._artifact(self._store, path, session)

    def _artifact(self, action: Callable[..., None], *arguments: Any) -> None:
        """Does something with an artifact, until that fails: metrics go on, and each try would take its time."""
        if self._log_model:
            try:
                action(*arguments)
            except Exception as error:  # noqa: BLE001 (W&B may fail in any way)
                self._log_model = False
                log.warning("W&B takes no artifacts, later ones are left out: %s", str(error).partition("\n")[0])

    def _store(self, path: Path, session: int) -> None:
        artifact = self._wandb.Artifact(f"checkpoint-{self._run.id}", type="model", metadata={"session": session})
        artifact.add_file(str(path))
        self._run.log_artifact(artifact, aliases=["latest", path.stem])

    def _use(self, data: Mapping[str, Any]) -> None:
        name = artifact_name("data", data["sequence"])
        artifact = self._wandb.Artifact(name, type="dataset", metadata=dict(data))
        with artifact.new_file("data.json", encoding="utf-8") as file:
            json.dump(data, file, indent=2)
        self._run.log_artifact(artifact).wait(timeout=ANSWER)
        self._run.use_artifact(artifact)

    def final(
        self, summary: Mapping[str, float], plots: Sequence[Path], matrices: Mapping[str, Any], confusion: Any
    ) -> None:
        if self._ended:
            return
        tables = {f"{name}_matrix": self._matrix(matrix) for name, matrix in matrices.items()}
        if confusion is not None:
            tables["confusion_between_sessions"] = self._confusion(confusion)
        pictures = {f"plots/{path.stem}": self._wandb.Image(str(path)) for path in plots if path.suffix == ".png"}
        self._run.log(pictures | tables)
        self._run.summary.update({f"final/{name}": value for name, value in summary.items()})

    def _matrix(self, matrix: Any) -> Any:
        tasks = [f"task_{task:02d}" for task in range(matrix.shape[1])]
        rows = [
            [index, *(None if np.isnan(v) else float(v) for v in row)] for index, row in enumerate(np.asarray(matrix))
        ]
        return self._wandb.Table(columns=["session", *tasks], data=rows)

    def _confusion(self, confusion: Any) -> Any:
        fields = {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"}
        return self._wandb.plot_table(
            "wandb/confusion_matrix/v1",
            self._wandb.Table(columns=list(fields), data=confusion_rows(confusion)),
            fields,
            {"title": "test pictures by session of their class"},
        )

    def close(self, failed: bool = False) -> None:
        try:
            self._run.finish(exit_code=int(failed))
        except TimeoutError:
            record = Path(self._run.dir).parent
            log.warning(
                "W&B did not take all of the run in time; `wandb sync --include-online %s` sends the rest", record
            )


def confusion_rows(confusion: NDArray[np.int64]) -> list[list[Any]]:
    """Rows of names of two sessions, which W&B sorts as text, and the samples (S, S) between them."""
    width = max(2, len(str(len(confusion) - 1)))
    return [[f"{own:0{width}}", f"{taken:0{width}}", int(n)] for (own, taken), n in np.ndenumerate(confusion)]


def _caption(sample: Sample) -> str:
    return f"{sample.label}: " + ", ".join(f"{name} {probability:.2f}" for name, probability in sample.guesses)
