"""`plan=true`: what a run would cost, from a few steps of its first two sessions."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from everclip.commands.parts import engine_settings, make_parts, make_training
from everclip.commands.sequences import shorten
from everclip.config.identity import names_of
from everclip.loggers.mirrors import Loggers
from everclip.methods.base import Method
from everclip.reporting.console import quieten_libraries
from everclip.runs.folder import RunFolder
from everclip.sweeps import plans
from everclip.sweeps.plans import Estimate
from everclip.training.engine import Engine
from everclip.training.interruption import StopRequest
from everclip.training.monitor import Cadence
from everclip.training.phases import PhaseState, Training, Watcher, Wish
from everclip.training.runner import Runner
from everclip.types import Phase, Session, TaskSequence

log = logging.getLogger("everclip")
STEPS = 10  # taken of every phase; the first is not timed, it is slower
SESSIONS = 2  # the base session and one more; the others are taken to be like that


class _EnoughError(Exception):
    """Ends a phase whose steps have been timed."""


@dataclass
class Stopwatch:
    """A `everclip.training.phases.Watcher` that times the first steps and then ends the phase."""

    watcher: Watcher
    steps: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def wish(self) -> Wish:
        """As the watcher it wraps."""
        return self.watcher.wish

    def start(self, steps: int, steps_per_epoch: int) -> None:
        """Notes how many steps the phase would have."""
        self.steps = steps
        self.watcher.start(steps, steps_per_epoch)

    def ready(self) -> None:
        """As the watcher it wraps."""
        self.watcher.ready()

    def after_step(self, losses: dict[str, float], lr: float, state: Callable[[], PhaseState], wish: Wish) -> None:
        """Notes the time."""
        self.watcher.after_step(losses, lr, state, wish)
        self.times.append(time.monotonic())
        if len(self.times) == STEPS < self.steps:
            raise _EnoughError

    @property
    def left(self) -> float:
        """Seconds that the steps not taken would last."""
        timed = len(self.times) - 1
        return (self.steps - len(self.times)) * (self.times[-1] - self.times[0]) / timed if timed > 0 else 0.0


class ProbeEngine(Engine):
    """An engine that takes the first steps of every phase only."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.left: dict[int, float] = {}  # seconds of training left out, by session

    def fit(
        self,
        method: Method,
        session: Session,
        phase: Phase,
        number: int,
        training: Training,
        watcher: Watcher,
        resume: PhaseState | None = None,
    ) -> None:
        """The first steps of a phase."""
        watch = Stopwatch(watcher)
        try:
            super().fit(method, session, phase, number, training, watch, resume)
        except _EnoughError:
            method.eval()
        self.left[session.index] = self.left.get(session.index, 0.0) + watch.left


def plan(config: DictConfig, hydra: DictConfig) -> None:
    """Measures, says and keeps what a run would cost."""
    quieten_libraries()
    engine = ProbeEngine(**engine_settings(config))
    try:
        estimate = _measure(config, hydra, engine)
    except BaseException:
        engine.close()
        raise
    if estimate is not None:
        plans.write(Path(hydra.runtime.output_dir), estimate)
        log.info("%s", estimate)


def _measure(config: DictConfig, hydra: DictConfig, engine: ProbeEngine) -> Estimate | None:
    """The estimate, on the first process alone: it has the files."""
    training = make_training(config)
    sequence, _, method = make_parts(config, load=True)
    whole = shorten(sequence, config)
    before, begun = time.process_time(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        probe = RunFolder(Path(place))
        probe.update_run(**names_of(config, hydra), seed=config.seed)
        level = log.level
        log.setLevel(logging.WARNING)  # accuracies after a few steps mean nothing
        Runner(
            folder=probe,
            identity={},
            sequence=replace(whole, sessions=whole.sessions[:SESSIONS]),
            method=method,
            engine=engine,
            training=training,
            cadence=Cadence(),
            make_loggers=lambda step: Loggers(),
            seed=config.seed,
            request=StopRequest(),
        ).run()
        log.setLevel(level)
        if engine.rank != 0:
            return None
        records = probe.read_sessions()
        sizes = [probe.checkpoint(index).stat().st_size for index in range(len(records))]
        others = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file()) - sum(sizes)
    spent = sum(record["train_seconds"] + record["eval_seconds"] for record in records)
    numbers = range(len(whole.sessions))
    around = before + time.monotonic() - begun - spent  # imports, weights, figures
    return Estimate(
        seconds=around + sum(seconds(whole, training, records, engine.left, index) for index in numbers),
        devices=engine.world_size,
        device=engine.device.type,
        memory_mb=max(record["peak_memory_mb"] for record in records),
        disk_mb=(others + sum(sizes[0] + (sizes[-1] - sizes[0]) * index for index in numbers)) / 1e6,
    )


def seconds(
    sequence: TaskSequence, training: Training, records: list[dict[str, Any]], left: dict[int, float], session: int
) -> float:
    """What a session takes: as the measured one does per training picture, step left out, and test picture.

    Args:
        sequence: the whole one.
        training: tells how many steps a session has.
        records: of the measured sessions, of which only the first steps were taken.
        left: seconds of training left out, by session.
        session: index.
    """
    measured = records[min(session, len(records) - 1)]
    pictures = sequence.sessions[session].num_samples / measured["train_images"]
    steps, measured_steps = (training.length(sequence.sessions[i]).steps for i in (session, measured["index"]))
    trained = pictures * measured["train_seconds"] + steps / max(1, measured_steps) * left.get(measured["index"], 0.0)
    tested = sum(len(sequence.tasks[task].samples) for task in sequence.evaluated(session))
    return trained + tested / measured["eval_images_per_second"]
