"""The session loop: the only place that knows the order of things."""

from __future__ import annotations

import logging
import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from everclip.data.images import ConcatSamples, Unlabelled
from everclip.digest import ListDigest, json_sha256
from everclip.errors import DataAccessError
from everclip.loggers.base import RunLogger
from everclip.methods.base import Extract, Method, Preparation, prepared
from everclip.metrics.protocol import read as read_protocol
from everclip.metrics.scores import ScoreTable
from everclip.reporting import results
from everclip.runs.folder import RunFolder
from everclip.runs.scores import by_task, confusion_of
from everclip.training.checkpoint import (
    Adapted,
    CheckpointError,
    Progress,
    load_session,
    random_state,
    restore,
    save_progress,
    save_session,
    set_random_state,
)
from everclip.training.engine import Engine
from everclip.training.evaluation import Judge
from everclip.training.interruption import StopRequest
from everclip.training.monitor import Cadence, Monitor
from everclip.training.phases import PhaseState, Training
from everclip.training.records import record_of, samples_of, scalars_of, summary_of
from everclip.training.saved import Saved, check_identity, read_saved, recall_kept, save_kept
from everclip.types import Phase, Session, SessionView, TaskSequence

log = logging.getLogger("everclip")
MINUTE = 60.0  # of work is worth a save between phases


def seed_everything(*key: int) -> None:
    """Seeds Python, NumPy and torch from numbers, equally on every process."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def session_view(sequence: TaskSequence, index: int, method: Method, training: Training) -> tuple[Session, SessionView]:
    """A session as a method may see it by its declaration, and its training pictures, to be closed when it ends.

    Raises:
        DataAccessError: the method keeps pictures without having declared so.
    """
    session, earlier = sequence.sessions[index], [past.train for past in sequence.sessions[:index]]
    kept = method.kept()
    if len(kept) and method.sees != "exemplars":
        raise DataAccessError(f"{type(method).__name__} keeps pictures, but does not declare sees = 'exemplars'")
    view = SessionView(ConcatSamples([*earlier, session.train]) if method.sees == "all" else session.train, index)
    seen = replace(
        session,
        train=view,
        unlabelled=None if session.unlabelled is None else view.beside(Unlabelled(session.unlabelled)),
        validation=None if session.validation is None else view.beside(session.validation),
        memory=ConcatSamples(earlier).subset(kept.tolist()) if len(kept) else None,
        offset=sum(len(pictures) for pictures in earlier),
        repeats=training.repeats(session),
        augmented=training.augmentation != "none" or session.train.drawn,
    )
    return seen, view


class Runner:
    """Runs a method through a sequence and keeps the run folder.

    What is done is written in this order, so that a run killed at any moment goes on from the last thing written:
    progress inside a session, the session's checkpoint when its training has ended, its record when it is evaluated.

    Args:
        folder: where results go; what is done there is not done again.
        identity: what a checkpoint must agree with to be used: digest, backbone, sequence fingerprint.
        sequence: what to run.
        method: on the engine's device; its parameters as they are before the first session.
        engine: device, precision, processes.
        training: budgets and optimiser.
        cadence: how often a session in training is saved.
        make_loggers: from the global step to go on from to the mirrors.
        seed: every session's random numbers follow from it and the session's index.
        request: the wish to stop.
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
        cadence: Cadence,
        make_loggers: Callable[[int], RunLogger],
        seed: int,
        request: StopRequest,
    ) -> None:
        self._folder = folder
        self._identity = dict(identity)
        self._sequence = sequence
        self._protocol = read_protocol(sequence.protocol)
        self._method = method
        self._engine = engine
        self._training = training
        self._cadence = cadence
        self._make_loggers = make_loggers
        self._seed = seed
        self._request = request
        self._judge = Judge(engine, sequence)
        self._adapted = Adapted(method)
        self._records: list[dict[str, Any]] = []
        self._table, self._follows = ScoreTable(len(sequence.tasks)), ListDigest()
        self._step = 0

    def run(self) -> dict[str, Any]:
        """All sessions that are not done yet; returns the summary."""
        self._engine.place(self._method)
        self._judge.remember(self._untrained())
        trained, saved = self._resume()
        self._loggers = self._make_loggers(saved.progress.global_step if saved else self._step)
        finished = False
        try:
            for record in self._records:
                self._count(record)
                self._tell(record)
            for session in self._sequence.sessions[len(self._records) :]:
                trained = trained or self._train(session, saved)
                saved = None
                self._evaluate(session, trained)
                trained = None
            summary = self._finish()
            finished = True
            return summary
        finally:
            self._loggers.close(failed=not finished)

    def _untrained(self) -> Method:
        """The backbone as it is, without what the method adds to it."""
        plain = Method(self._method.backbone)
        plain.frozen_images, plain.frozen_texts = self._method.frozen_images, self._method.frozen_texts
        return plain

    def _resume(self) -> tuple[dict[str, Any] | None, Saved | None]:
        """Goes back to the last good state: of the records, of a session that is trained, of one in training."""
        self._records = self._folder.read_sessions()[: len(self._sequence.sessions)]
        recall = partial(recall_kept, self._judge, self._records, self._folder, self._identity, self._sequence)
        trained = None
        if len(self._records) < len(self._sequence.sessions):
            recall()
            trained = self._restore(len(self._records), expected=False)
        while self._records and trained is None:
            if self._restore(len(self._records) - 1, expected=True) is not None:
                break
            log.warning("going back one session")
            self._records.pop()
            recall()
        saved = None if trained else read_saved(self._folder, self._identity, len(self._records))
        if self._records or trained or saved:
            where = ""
            if trained:
                where = ", the next one is trained"
            elif saved:
                phase, step = saved.progress.phase, saved.progress.state.step
                where = f", in phase {phase + 1} of the next one after {step} steps"
            log.info("resuming after session %d of %d%s", len(self._records), len(self._sequence.sessions), where)
        return trained, saved

    def _restore(self, session: int, *, expected: bool) -> dict[str, Any] | None:
        """Puts the state after the training of `session` into the method; what its checkpoint says of the training."""
        path = self._folder.checkpoint(session)
        if not path.is_file() and not expected:
            return None
        try:
            tensors, meta = load_session(path)
            check_identity(path, meta, self._identity)
            # Format 3 carried the records themselves.
            if meta.get("follows", json_sha256(meta.get("records"))) != json_sha256(self._records[:session]):
                raise CheckpointError(f"{path} was written after other sessions than those recorded")
            restore(self._method, tensors)
        except CheckpointError as error:
            log.warning("%s", error)
            return None
        self._adapted.restored(tensors)
        self._step = int(meta["global_step"])
        return dict(meta["trained"])

    def _train(self, session: Session, saved: Saved | None) -> dict[str, Any]:
        """Hooks and phases of a session, then its checkpoint; returns facts for the record."""
        start, before = time.monotonic() - (saved.progress.seconds if saved else 0.0), self._step
        self._enter("training", session)
        seed_everything(self._seed, session.index)
        if self._engine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        facts: dict[str, Any] = {}
        if session.is_base:
            facts["zero_shot_before"] = self._judge.held_out(self._untrained())
        method = self._method
        extract = self._engine.extractor(method, session.index, self._training.view(method.backbone.image_size))
        seen, view = session_view(self._sequence, session.index, method, self._training)
        method.begin_session(seen, extract)
        phases = method.phases(seen)
        if saved is not None:
            self._lay_over(saved.before or saved)
            self._step = saved.progress.global_step
        losses = self._optimise(seen, phases, extract, saved, start)
        self._enter("finishing training", session)
        method.end_session(seen, extract)
        view.close()
        self._adapted.require_finite(f"after training session {session.index}")
        facts |= {
            "losses": losses,
            "train_steps": self._step - before,
            "train_seconds": round(time.monotonic() - start, 3),
            "peak_memory_mb": round(_peak_memory_mb(self._engine.device), 1),
        }
        if self._engine.rank == 0:
            self._loggers.flush()
            classes = [[group.ids, group.names, group.templates] for _, group in session.seen.by_templates()]
            meta = self._meta(session) | {"trained": facts, "classes": classes, "random_state": random_state()}
            save_session(self._folder.checkpoint(session.index), self._adapted.tensors(), meta)
            self._folder.remove_progress()
        self._engine.barrier()
        return facts

    def _lay_over(self, saved: Saved) -> None:
        """Puts parameters, buffers and random numbers where they were."""
        restore(self._method, saved.tensors)
        self._adapted.restored(saved.tensors)
        set_random_state(saved.progress.random_state)

    def _optimise(
        self,
        session: Session,
        phases: Sequence[Phase | Preparation],
        extract: Extract,
        saved: Saved | None,
        start: float,
    ) -> dict[str, float]:
        """The phases that are not done yet; the mean of each loss over the last epoch."""
        progress = saved.progress if saved else None
        losses = dict(progress.losses) if progress else {}
        last_save = time.monotonic()
        for number, planned in enumerate(phases):
            here = progress if progress is not None and progress.phase == number else None
            if progress is not None and progress.phase > number:
                continue
            save = partial(self._save_progress, session, number, losses, start)
            if number and time.monotonic() - last_save > MINUTE:
                save()
                last_save = time.monotonic()
            goes_on = here is not None and here.prepared
            if not isinstance(planned, Phase) and not goes_on:
                save(begins=True)
            phase = prepared(planned, extract)
            if saved is not None and goes_on:
                self._lay_over(saved)
            monitor = Monitor(
                f"session {session.index} {phase.name}",
                loggers=self._loggers,
                log_every=self._training.log_every,
                cadence=self._cadence,
                save=partial(save, prepared=phase is not planned),
                request=self._request,
                step=self._step,
                recent=here.recent if here else {},
                random_state=here.random_state if here and here.state.step else None,
            )
            try:
                with self._request.deferred():
                    state = here.state if here else None
                    self._engine.fit(self._method, session, phase, number, self._training, monitor, state)
            finally:
                means = monitor.finish()
            losses |= means
            self._step = monitor.step
        if phases and time.monotonic() - last_save > MINUTE:
            self._save_progress(session, len(phases), losses, start)
        return losses

    def _save_progress(
        self,
        session: Session,
        phase: int,
        losses: dict[str, float],
        start: float,
        monitor: Monitor | None = None,
        state: PhaseState | None = None,
        *,
        prepared: bool = False,
        begins: bool = False,
    ) -> None:
        """Writes how far the session is, or where a phase `begins`; all processes wait until it is written."""
        self._adapted.require_finite(f"inside session {session.index}")
        if self._engine.rank == 0:
            self._loggers.flush()
            progress = Progress(
                session=session.index,
                phase=phase,
                global_step=monitor.step if monitor else self._step,
                seconds=round(time.monotonic() - start, 3),
                losses=losses,
                recent={name: list(values) for name, values in monitor.recent.items()} if monitor else {},
                random_state=random_state(),
                state=state or PhaseState(),
                prepared=prepared,
            )
            path = self._folder.phase_start if begins else self._folder.progress
            # A preparation may freeze what was trained: from here on, what has changed is known by its bytes.
            tensors = self._adapted.tensors() if begins else self._adapted.between_steps()
            save_progress(path, tensors, progress, self._meta(session))
        self._engine.barrier()

    def _meta(self, session: Session) -> dict[str, Any]:
        return self._identity | {
            "session": session.index, "global_step": self._step, "follows": self._follows.hexdigest()
        }  # fmt: skip

    def _enter(self, stage: str, session: Session) -> None:
        """Tells readers of the run folder what is going on."""
        if self._engine.rank == 0:
            self._folder.update_run(stage=stage, session=session.index, sessions=len(self._sequence.sessions))

    def _evaluate(self, session: Session, trained: Mapping[str, Any]) -> None:
        """Evaluates a trained session, records it, tells the mirrors."""
        self._enter("evaluating", session)
        start = time.monotonic()
        evaluation = self._judge.evaluate(self._method, session.index)
        seconds = time.monotonic() - start
        record = (
            record_of(session, evaluation, self._sequence, self._method, self._table)
            | dict(trained)
            | {
                "eval_seconds": round(seconds, 3),
                "eval_images_per_second": round(evaluation.num_samples / max(seconds, 1e-9), 1),
            }
        )
        self._records.append(record)
        self._count(record)
        if self._engine.rank == 0:
            save_kept(self._folder, self._identity, session.index, evaluation.kept)
            self._write_sessions()
        self._engine.barrier()
        self._tell(record)
        log.info(results.session_line(self._records, len(self._sequence.sessions), self._protocol))

    def _write_sessions(self) -> None:
        self._folder.write_sessions(self._records, len(self._sequence.tasks), self._protocol.entry)

    def _count(self, record: dict[str, Any]) -> None:
        """Takes in what follows from all records up to this one."""
        self._table.append(by_task(record))
        self._follows.append(record)

    def _tell(self, record: dict[str, Any]) -> None:
        """Tells the mirrors about the session that was counted last."""
        if self._engine.rank == 0 and self._loggers.listens:
            index = record["index"]
            scalars = scalars_of(record, self._table, self._sequence)
            samples = samples_of(record, self._sequence, self._method.backbone.resize)
            step = sum(earlier["train_steps"] for earlier in self._records[: index + 1])
            self._loggers.checkpoint(self._folder.checkpoint(index), index)
            self._loggers.session({f"session/{k}": v for k, v in scalars.items()}, index, step, samples)

    def _finish(self) -> dict[str, Any]:
        summary = summary_of(self._records, self._table, self._sequence)
        if self._engine.rank == 0:
            self._write_sessions()  # a kill may have left old matrices
            self._folder.remove_progress()  # and what it was about to remove
            plots = results.write_plots(self._folder)
            self._folder.write_summary(summary)
            scalars = {name: value for name, value in summary.items() if isinstance(value, int | float)}
            matrix = self._table.matrix(self._protocol.entry)
            self._loggers.final(scalars, plots, {self._protocol.entry: matrix}, confusion_of(self._records))
        return summary


def _peak_memory_mb(device: torch.device) -> float:
    """Highest memory use so far in MB: of the GPU in this session, else of the process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
