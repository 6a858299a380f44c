"""A protocol: which score is the entry A[t, j] of a sequence, what follows from it, and what of that is shown.

A protocol is a module of this package with a `PROTOCOL`; its name is the module's.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

import everclip.metrics
from everclip.errors import ConfigError
from everclip.metrics.scores import ScoreTable


@dataclass(frozen=True)
class Measure:
    """A number that is shown.

    Attributes:
        key: of a session's record or of a run's summary.
        heading: shown.
        better: `high`, `low`, or empty where no value is the best.
        digits: after the point.
    """

    key: str
    heading: str
    better: str = "high"
    digits: int = 2


@dataclass(frozen=True)
class Protocol:
    """How the scores of a sequence are summed up and shown.

    Attributes:
        name: of its module.
        entry: the score that is A[t, j].
        title: of the entry of a whole session, on axes.
        session: numbers of the latest session, one named as `entry`; None where there is none.
        summary: numbers of all sessions so far; among them `average_<entry>` over sessions and `last_<entry>`.
        line: of a record, on the console after each session.
        columns: of the summary, in tables beside the entry of every session.
        details: of the summary, where there is more room.
    """

    name: str
    entry: str
    title: str
    session: Callable[[ScoreTable], dict[str, float | None]]
    summary: Callable[[ScoreTable], dict[str, float]]
    line: tuple[Measure, ...]
    columns: tuple[Measure, ...]
    details: tuple[Measure, ...] = ()

    @property
    def label(self) -> str:
        """The entry in words."""
        return self.entry.replace("_", " ")


def read(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        ConfigError: there is none.
    """
    found = _found(name) if name in _modules() else None
    if found is None:
        raise ConfigError(f"protocol {name!r} is unknown; there are: {', '.join(p.name for p in every())}")
    return found


def every() -> Iterator[Protocol]:
    """All protocols, by name."""
    for name in _modules():
        found = _found(name)
        if found is not None:
            yield found


def _modules() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(everclip.metrics.__path__))


def _found(name: str) -> Protocol | None:
    protocol: Protocol | None = getattr(import_module(f"everclip.metrics.{name}"), "PROTOCOL", None)
    return protocol
