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
        before: key of the first session's record that says what it was before any training; empty where nothing does.
    """

    key: str
    heading: str
    better: str = "high"
    digits: int = 2
    before: str = ""


# Of classes that are never trained on, where a sequence has some: what is left of zero-shot recognition.
HELD_OUT = Measure("zero_shot_accuracy", "held-out classes", before="zero_shot_before")
HELD_OUT_IN_ALL = (Measure("zero_shot_before", "held-out before", ""), Measure("zero_shot_after", "held-out after"))


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
        diagnostics: of the summary, that tell why the others are as they are; a table of their own on a page.
    """

    name: str
    entry: str
    title: str
    session: Callable[[ScoreTable], dict[str, float | None]]
    summary: Callable[[ScoreTable], dict[str, float]]
    line: tuple[Measure, ...]
    columns: tuple[Measure, ...]
    details: tuple[Measure, ...] = ()
    diagnostics: tuple[Measure, ...] = ()

    @property
    def label(self) -> str:
        """The entry in words."""
        headings = {measure.key: measure.heading for measure in self.line}
        return headings.get(self.entry, self.entry.replace("_", " "))


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
