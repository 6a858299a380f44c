"""The session loop: the only place that knows the order of things."""

from __future__ import annotations

import logging
import random
import resource
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from everclip import report
from everclip.checkpoint import Adapted, CheckpointError, load_session, restore, save_session
from everclip.console import StepProgress
from everclip.data.images import ConcatImages
from everclip.engine import Engine, Training
from everclip.evaluation import Evaluation, Evaluator
from everclip.loggers import RunLogger
from everclip.methods.base import Method
from everclip.run_folder import RunFolder, matrix_of
from everclip.types import ImageSet, Session, SessionView, TaskSequence

log = logging.getLogger("everclip")


def seed_everything(*key: int) -> None:
    """Seeds Python, NumPy and torch from numbers, equally on every process."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Monitor:
    """Watches one phase: progress bar, logged losses, and their recent mean.

    Args:
        title: of the progress bar.
        loggers: get the losses every `log_every` steps.
        log_every: in steps.
        step: global steps taken before the phase.
    """

    def __init__(self, title: str, loggers: RunLogger, log_every: int, step: int) -> None:
        self._title, self._loggers, self._log_every = title, loggers, log_every
        self.step = step
        self._recent: dict[str, deque[torch.Tensor]] = {}
        self._progress: StepProgress | None = None

    def start(self, steps: int, steps_per_epoch: int) -> None:
        """The phase will take `steps` steps."""
        self._epoch = steps_per_epoch
        self._progress = StepProgress(self._title, steps)

    def after_step(self, losses: dict[str, torch.Tensor], lr: float) -> None:
        """A step was taken at learning rate `lr`; reads values from the device only when someone looks."""
        self.step += 1
        for name, loss in losses.items():
            self._recent.setdefault(name, deque(maxlen=self._epoch)).append(loss)
        assert self._progress is not None
        logged = self.step % self._log_every == 0
        values = {name: float(loss) for name, loss in losses.items()} if logged or self._progress.visible else {}
        self._progress.advance(sum(values.values()) if values else None)
        if logged:
            self._loggers.train(
                {f"train/{name}": value for name, value in values.items()} | {"train/lr": lr}, self.step
            )

    def finish(self) -> dict[str, float]:
        """Ends the progress bar; the mean of each loss over the last epoch."""
        if self._progress is not None:
            self._progress.stop()
        return {name: float(torch.stack(list(losses)).mean()) for name, losses in self._recent.items()}


class Runner:
    """Runs a method through a sequence and keeps the run folder.

    Args:
        folder: where results go; sessions that are done there are not done again.
        identity: what a checkpoint must agree with to be used: digest, backbone, sequence fingerprint.
        sequence: what to run.
        method: on the engine's device; its parameters as they are before the first session.
        engine: device, precision, processes.
        training: budgets and optimiser.
        make_loggers: from the global step to go on from to the mirrors.
        seed: every session's random numbers follow from it and the session's index.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        identity: Mapping[str, Any],
        sequence: TaskSequence,
        method: Method,
        engine: Engine,
        training: Training,
        make_loggers: Callable[[int], RunLogger],
        seed: int,
    ) -> None:
        self._folder = folder
        self._identity = dict(identity)
        self._sequence = sequence
        self._method = method
        self._engine = engine
        self._training = training
        self._make_loggers = make_loggers
        self._seed = seed
        self._evaluator = Evaluator(engine, sequence)
        self._adapted = Adapted(method)
        self._records: list[dict[str, Any]] = []
        self._step = 0

    def run(self) -> dict[str, Any]:
        """All sessions that are not done yet; returns the summary."""
        self._resume()
        self._loggers = self._make_loggers(self._step)
        try:
            for session in self._sequence.sessions[len(self._records) :]:
                self._run_session(session)
            return self._finish()
        finally:
            self._loggers.close()

    def _resume(self) -> None:
        """Goes back to the last session whose record and checkpoint are both good."""
        records = self._folder.read_sessions()[: len(self._sequence.sessions)]
        while records:
            path = self._folder.checkpoint(len(records) - 1)
            try:
                tensors, meta = load_session(path)
                for key, value in self._identity.items():
                    if meta.get(key) != value:
                        raise CheckpointError(f"{path} belongs to another run: its {key} differs")
                restore(self._method, tensors)
            except CheckpointError as error:
                log.warning("%s; going back one session", error)
                records.pop()
                continue
            self._step = int(meta["global_step"])
            log.info("resuming after session %d of %d", len(records), len(self._sequence.sessions))
            break
        self._records = records
        self._method.to(self._engine.device).eval()

    def _run_session(self, session: Session) -> None:
        seed_everything(self._seed, session.index)
        if self._engine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        zero_shot_before = self._evaluator.held_out(Method(self._method.backbone)) if session.is_base else None
        before, start = self._step, time.monotonic()
        losses = self._train(session)
        trained = time.monotonic()
        evaluation = self._evaluator.evaluate(self._method, session.index)
        evaluated = time.monotonic()

        record = self._record(session, evaluation) | {
            "losses": losses,
            "train_steps": self._step - before,
            "train_seconds": round(trained - start, 3),
            "eval_seconds": round(evaluated - trained, 3),
            "eval_images_per_second": round(evaluation.num_images / max(evaluated - trained, 1e-9), 1),
            "peak_memory_mb": round(_peak_memory_mb(self._engine.device), 1),
        }
        if session.is_base:
            record["zero_shot_before"] = zero_shot_before
        self._records.append(record)
        self._save(session)
        scalars = {f"session/{k}": v for k, v in record.items() if isinstance(v, int | float) and k != "index"}
        metrics = matrix_of(self._records, len(self._sequence.tasks)).metrics()
        self._loggers.session(scalars | {f"session/{k}": v for k, v in metrics.items()}, session.index)
        log.info(report.session_line(record, len(self._sequence.sessions)))

    def _train(self, session: Session) -> dict[str, float]:
        """Hooks and phases of a session; returns the mean of each loss over its last epoch."""
        method, extract = self._method, self._engine.extractor(self._method)
        view = SessionView(self._visible(session), session.index, keeps=method.sees != "session")
        seen = replace(session, train=view)
        method.begin_session(seen, extract)
        losses: dict[str, float] = {}
        for number, phase in enumerate(method.phases(seen)):
            title = f"session {session.index} {phase.name}"
            monitor = Monitor(title, self._loggers, self._training.log_every, self._step)
            try:
                self._engine.fit(method, seen, phase, number, self._training, monitor)
            finally:
                losses |= monitor.finish()
            self._step = monitor.step
        method.end_session(seen, extract)
        view.close()
        return losses

    def _visible(self, session: Session) -> ImageSet:
        """The pictures a method may see in this session, by its declaration."""
        if self._method.sees != "all":
            return session.train
        return ConcatImages([earlier.train for earlier in self._sequence.sessions[: session.index + 1]])

    def _record(self, session: Session, evaluation: Evaluation) -> dict[str, Any]:
        tasks: list[dict[str, Any]] = [
            {
                "task": task,
                "name": self._sequence.tasks[task].name,
                "accuracy": 100 * evaluation.correct[task] / evaluation.counts[task],
                "correct": evaluation.correct[task],
                "count": evaluation.counts[task],
            }
            for task in evaluation.counts
        ]
        seen = [task for task in tasks if task["task"] <= session.index]
        novel = [task for task in seen if task["task"] > 0]

        def pooled(chosen: list[dict[str, Any]]) -> float | None:
            return 100 * sum(t["correct"] for t in chosen) / sum(t["count"] for t in chosen) if chosen else None

        return {
            "index": session.index,
            "name": session.name,
            "new_classes": len(session.new),
            "seen_classes": len(session.seen),
            "train_images": len(session.train),
            "accuracy": pooled(seen),
            "base_accuracy": pooled(seen[:1]),
            "novel_accuracy": pooled(novel),
            "zero_shot_accuracy": evaluation.held_out,
            "tasks": tasks,
            "trainable_parameters": self._method.num_trainable(),
            "total_parameters": sum(p.numel() for p in self._method.parameters()),
        }

    def _save(self, session: Session) -> None:
        """Checkpoint first, record second: a recorded session always has its checkpoint."""
        if self._engine.rank == 0:
            path = self._folder.checkpoint(session.index)
            facts = self._identity | {"session": session.index, "global_step": self._step, "records": self._records}
            save_session(path, self._adapted.tensors(), facts)
            self._folder.write_sessions(self._records, len(self._sequence.tasks))
            self._loggers.checkpoint(path, session.index)
        self._engine.barrier()

    def _finish(self) -> dict[str, Any]:
        metrics = matrix_of(self._records, len(self._sequence.tasks)).metrics()
        first, last = self._records[0], self._records[-1]
        summary: dict[str, Any] = metrics | {
            "zero_shot_before": first["zero_shot_before"],
            "zero_shot_after": last["zero_shot_accuracy"],
            "accuracy_per_session": [record["accuracy"] for record in self._records],
            "sessions": len(self._records),
            "train_seconds": round(sum(record["train_seconds"] for record in self._records), 3),
            "eval_seconds": round(sum(record["eval_seconds"] for record in self._records), 3),
            "peak_memory_mb": max(record["peak_memory_mb"] for record in self._records),
            "trainable_parameters": last["trainable_parameters"],
            "total_parameters": last["total_parameters"],
        }
        if self._engine.rank == 0:
            self._folder.write_sessions(self._records, len(self._sequence.tasks))  # a kill may have left old matrices
            plots = report.write_plots(self._folder)
            report.write_summary(self._folder, summary)
            scalars = {name: value for name, value in summary.items() if isinstance(value, int | float)}
            self._loggers.final(scalars, plots)
        return summary


def _peak_memory_mb(device: torch.device) -> float:
    """Highest memory use so far in MB: of the GPU in this session, else of the process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
