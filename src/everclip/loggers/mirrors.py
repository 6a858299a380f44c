"""The record of training losses and its mirrors as one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everclip.loggers.base import RunLogger, Sample
from everclip.loggers.csv import CsvLogger

log = logging.getLogger("everclip")


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

    @property
    def listens(self) -> bool:
        return any(member in self._members for member in self._mirrors)

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

    def final(
        self, summary: Mapping[str, float], plots: Sequence[Path], matrices: Mapping[str, Any], confusion: Any
    ) -> None:
        self._each(self._members, "final", summary, plots, matrices, confusion)

    def flush(self) -> None:
        self._each(self._members, "flush")

    def close(self, failed: bool = False) -> None:
        if self._history:
            self._catch_up(self._history[-1][0])
        self._each(self._members, "close", failed)
