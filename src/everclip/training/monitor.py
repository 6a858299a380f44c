"""Follows the steps of a phase: progress bar, logged losses, checkpoints inside the phase, the wish to stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from everclip.errors import Preempted
from everclip.loggers.base import RunLogger
from everclip.reporting.step_progress import StepProgress
from everclip.training.checkpoint import set_random_state
from everclip.training.interruption import StopRequest
from everclip.training.phases import PhaseState, Wish


@dataclass(frozen=True)
class Cadence:
    """How often a phase is saved while it runs; None: not because of steps, or of time."""

    every_n_steps: int | None = None
    every_n_minutes: float | None = None


class Monitor:
    """A `everclip.training.phases.Watcher` for people, files and signals.

    Args:
        title: of the progress bar.
        loggers: get the losses every `log_every` steps.
        log_every: in steps.
        cadence: when to save.
        save: writes this monitor's numbers and the phase's state; on all but the first process it only waits.
        request: the wish to stop.
        step: global steps taken before.
        recent: losses of the last steps, from an interrupted run of the same phase.
        random_state: of its random numbers.
    """

    def __init__(
        self,
        title: str,
        *,
        loggers: RunLogger,
        log_every: int,
        cadence: Cadence,
        save: Callable[[Monitor, PhaseState], None],
        request: StopRequest,
        step: int,
        recent: Mapping[str, Sequence[float]],
        random_state: dict[str, Any] | None,
    ) -> None:
        self._title, self._loggers, self._log_every = title, loggers, log_every
        self._cadence, self._save, self._request = cadence, save, request
        self.step = step
        self.recent = {name: deque(values) for name, values in recent.items()}
        self._random_state = random_state
        self._progress: StepProgress | None = None

    @property
    def stop(self) -> bool:
        """Whether this process was asked to stop."""
        return self._request.name is not None

    @property
    def wish(self) -> Wish:
        """To stop if this process was asked to, to save if it is time or the terminal is gone."""
        if self.stop:
            return Wish.STOP
        minutes = self._cadence.every_n_minutes
        late = minutes is not None and time.monotonic() - self._saved >= 60 * minutes
        return Wish.SAVE if late or self._request.hung_up else Wish.NONE

    def start(self, steps: int, steps_per_epoch: int) -> None:
        """The phase will take `steps` more steps."""
        self.recent = {name: deque(values, steps_per_epoch) for name, values in self.recent.items()}
        self._epoch = steps_per_epoch
        self._progress = StepProgress(self._title, steps)
        self._saved = time.monotonic()

    def ready(self) -> None:
        """Takes back what setting up changed: Lightning's signal handlers and the loader's draw of random numbers."""
        self._request.claim()
        if self._random_state is not None:
            set_random_state(self._random_state)

    def after_step(self, losses: dict[str, float], lr: float, state: Callable[[], PhaseState], wish: Wish) -> None:
        """A step was taken at learning rate `lr`.

        Raises:
            Preempted: the run was asked to stop; the phase is saved.
        """
        self.step += 1
        for name, loss in losses.items():
            self.recent.setdefault(name, deque(maxlen=self._epoch)).append(loss)
        assert self._progress is not None
        self._progress.advance(sum(losses.values()))
        if self.step % self._log_every == 0:
            named = {f"train/{name}": value for name, value in losses.items()}
            self._loggers.train({**named, "train/lr": lr}, self.step)
        steps = self._cadence.every_n_steps
        if wish or (steps is not None and self.step % steps == 0):
            self._request.hung_up = False
            self._save(self, state())
            self._saved = time.monotonic()
        if wish == Wish.STOP:
            # From here on, a signal that the others may send asks for nothing new.
            self._request.name = self._request.name or "a signal to another process"
            raise Preempted(self._request.name)

    def finish(self) -> dict[str, float]:
        """Ends the progress bar; the mean of each loss over the last epoch."""
        if self._progress is not None:
            self._progress.stop()
        return {name: fmean(values) for name, values in self.recent.items()}
