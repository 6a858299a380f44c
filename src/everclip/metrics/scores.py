"""Scores by session, task and name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everclip.metrics.matrix import Matrix


@dataclass(frozen=True)
class Score:
    """One number about one task.

    Attributes:
        value: in % unless the score's name says otherwise.
        count: samples behind it.
    """

    value: float
    count: int

    @staticmethod
    def share(right: int, count: int) -> Score:
        """The share of `right` among `count`, in %."""
        return Score(100 * right / count, count)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or self.count < 1:
            raise ValueError(f"a score needs a finite value and samples behind it, got {self.value} of {self.count}")


class ScoreTable:
    """The scores of the tasks evaluated after each session.

    Args:
        num_tasks: columns; sessions are added with `append`.
    """

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks
        self._sessions: list[dict[int, dict[str, Score]]] = []
        self._counts: dict[tuple[int, str], int] = {}

    def append(self, scores: Mapping[int, Mapping[str, Score]]) -> None:
        """Adds a session: its scores by task and name.

        Raises:
            ValueError: a task was judged by another number of samples than before.
        """
        for task, by_name in scores.items():
            for name, score in by_name.items():
                before = self._counts.setdefault((task, name), score.count)
                if before != score.count:
                    raise ValueError(f"{name} of task {task} is of {score.count} samples, earlier of {before}")
        self._sessions.append({task: dict(by_name) for task, by_name in scores.items()})

    def followed_by(self, scores: Mapping[int, Mapping[str, Score]]) -> ScoreTable:
        """A table with one session more, see `append`; this one stays as it is."""
        longer = ScoreTable(self.num_tasks)
        longer._sessions, longer._counts = list(self._sessions), dict(self._counts)
        longer.append(scores)
        return longer

    def __len__(self) -> int:
        """Sessions so far."""
        return len(self._sessions)

    @property
    def latest(self) -> int:
        """Index of the latest session."""
        return len(self._sessions) - 1

    def rows(self) -> list[tuple[int, int, str, Score]]:
        """(session, task, name, score) of every score, in order."""
        return [
            (session, task, name, score)
            for session, tasks in enumerate(self._sessions)
            for task, by_name in sorted(tasks.items())
            for name, score in by_name.items()
        ]

    @property
    def names(self) -> list[str]:
        """Names of the scores, in order of appearance."""
        return list(dict.fromkeys(name for _, _, name, _ in self.rows()))

    def matrix(self, name: str) -> Matrix:
        """A (T, J): value of a score on task j after session t; NaN where it was not evaluated."""
        return self._filled(name, math.nan, lambda score: score.value)

    def counts(self, name: str) -> Matrix:
        """N (T, J): samples behind each entry, 0 where it was not evaluated."""
        return self._filled(name, 0.0, lambda score: score.count)

    def task_counts(self, name: str) -> Matrix:
        """N (J,): samples behind a score of each task, 0 for a task without it."""
        return self.counts(name).max(axis=0, initial=0.0)

    def pooled(self, name: str, tasks: Iterable[int]) -> float | None:
        """Mean after the latest session over the samples of those of these tasks that were evaluated; None if none was.

        For a share of samples, such as accuracy, this is the share of all of them together.
        """
        latest = self._sessions[-1]
        scores = [latest[task][name] for task in tasks if name in latest.get(task, {})]
        total = sum(score.count for score in scores)
        return math.fsum(score.value * score.count for score in scores) / total if scores else None

    def mean(self, name: str, tasks: Iterable[int]) -> float | None:
        """The same with every task weighing the same."""
        latest = self._sessions[-1]
        values = [latest[task][name].value for task in tasks if name in latest.get(task, {})]
        return math.fsum(values) / len(values) if values else None

    def _filled(self, name: str, empty: float, read: Callable[[Score], float]) -> Matrix:
        import numpy as np  # which a list of runs does not wait for

        filled = np.full((len(self), self.num_tasks), empty)
        for session, tasks in enumerate(self._sessions):
            for task, by_name in tasks.items():
                if name in by_name:
                    filled[session, task] = read(by_name[name])
        return filled


def seen_means(table: ScoreTable, names: Iterable[str]) -> dict[str, float | None]:
    """Scores as means over the tasks seen so far, each weighing the same."""
    seen = range(table.latest + 1)
    return {name: table.mean(name, seen) for name in names}
