"""Learning-rate schedules as pure functions of the position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a decay; the factor of the optimiser's learning rate.

    Attributes:
        interval: what positions count: every `step` or every `epoch` (constant within one).
        warmup: positions of the warm-up.
        warmup_start: factor at position 0 of a warm-up, which reaches 1 at the first position after it.
        warmup_offset: added to the positions of the warm-up; with 1 its last one has the factor 1 already.
        decay: `none`, `cosine` or `linear`, from 1 after the warm-up to `final`; `quarter_cosine`, the cosine of 0 to
            99 % of a right angle, which the last position before the end has; or `step`, `final` from `drop` on.
        final: factor at the end.
        drop: share of the positions up to the end, before which a `step` leaves the factor at 1.
        length: position of the end, None for the length of the phase.
        overrun: added to the length of the phase where that is the end.
    """

    interval: Literal["step", "epoch"] = "step"
    warmup: Annotated[int, Field(ge=0)] = 0
    warmup_start: Annotated[float, Field(ge=0)] = 0.0
    warmup_offset: Literal[0, 1] = 0
    decay: Literal["none", "cosine", "linear", "quarter_cosine", "step"] = "none"
    final: Annotated[float, Field(ge=0)] = 0.0
    drop: Annotated[float, Field(gt=0, lt=1)] = 0.5
    length: Annotated[int, Field(ge=1)] | None = None
    overrun: Annotated[int, Field(ge=0)] = 0

    def factor(self, position: int, phase_length: int) -> float:
        """The factor at `position` (from 0) of a phase of `phase_length` positions."""
        if position < self.warmup:
            return self.warmup_start + (1 - self.warmup_start) * (position + self.warmup_offset) / self.warmup
        if self.decay == "none":
            return 1.0
        end = self.length or phase_length + self.overrun
        if self.decay == "step":
            return self.final if position >= self.drop * end else 1.0
        if self.decay == "quarter_cosine":
            shape = math.cos(0.99 * math.pi / 2 * min(1.0, (position - self.warmup) / max(1, end - 1 - self.warmup)))
        else:
            progress = min(1.0, (position - self.warmup) / max(1, end - self.warmup))
            shape = (1 + math.cos(math.pi * progress)) / 2 if self.decay == "cosine" else 1 - progress
        return self.final + (1 - self.final) * shape
