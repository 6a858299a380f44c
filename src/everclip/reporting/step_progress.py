"""How far training is, while it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from everclip.reporting.console import terminal
from everclip.reporting.plain import duration

log = logging.getLogger("everclip")
MINUTE = 60.0


class StepProgress:
    """How far the steps of one phase are: a bar, or without a terminal a line a minute, at log level info.

    Args:
        title: of the phase.
        steps: all of them.
        clock: seconds.
    """

    def __init__(self, title: str, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._steps, self._clock = title, steps, clock
        self._done, self._begun = 0, clock()
        self._told = self._begun
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}", markup=False),
            TimeRemainingColumn(),
            console=terminal,
            transient=True,
            disable=not (terminal.is_interactive and log.isEnabledFor(logging.INFO)),
        )
        self._task = self._bar.add_task(title, total=steps, loss="-")
        self._bar.start()

    def stop(self) -> None:
        """Removes the bar."""
        self._bar.stop()

    def advance(self, loss: float) -> None:
        """One step done."""
        self._done += 1
        self._bar.update(self._task, advance=1, loss=f"{loss:.3f}")
        now = self._clock()
        pace = (now - self._begun) / self._done
        late = now + pace - self._told >= MINUTE  # at the end of the next step
        if self._bar.disable and late and self._done < self._steps:
            left = duration(pace * (self._steps - self._done))
            log.info("%s: step %d/%d, loss %.3f, %s left", self._title, self._done, self._steps, loss, left)
            self._told = now
