"""Two groups of runs side by side: what they were made of, and what came of it, run by run of the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from everclip.config.names import settings_of, tells_apart
from everclip.errors import ConfigError
from everclip.metrics.paired import Paired, compare
from everclip.metrics.protocol import Measure
from everclip.reporting.inspection import accuracies_after
from everclip.reporting.origin import LATER, origin_of
from everclip.reporting.results import TRAINED
from everclip.reporting.stored import SILENT, Run
from everclip.runs.scores import table_of

MACHINE = ("device", "devices", "threads", "host", "gpu", "platform")
COSTS = (
    TRAINED,
    Measure("train_seconds", "training (s)", "low", 1),
    Measure("eval_seconds", "evaluation (s)", "low", 1),
    Measure("peak_memory_mb", "memory (MB)", "low", 0),
)
GROUPS = ("sequence", "method", "backbone")

Values = tuple[list[Any], list[Any]]


@dataclass(frozen=True)
class Compared:
    """A figure of both groups, pair by pair.

    Attributes:
        measure: what it is.
        first: values of A.
        second: values of B, in the same order.
        paired: how far they lie apart.
    """

    measure: Measure
    first: list[float]
    second: list[float]
    paired: Paired


@dataclass(frozen=True)
class Section:
    """The pairs of one setting.

    Attributes:
        name: what is the same in all of its runs, and varies within the groups; may be empty.
        pairs: runs of A and B.
        curve: the protocol's entry after each session that both have.
        tasks: the same entry by task, after the last of those sessions.
        classes: accuracy by class after it, the largest difference first, where all runs were inspected.
        metrics: of the summaries, where all runs are finished.
        title: of the entry.
    """

    name: str
    pairs: list[tuple[Run, Run]]
    curve: list[Compared] = field(default_factory=list)
    tasks: list[Compared] = field(default_factory=list)
    classes: list[Compared] = field(default_factory=list)
    metrics: list[Compared] = field(default_factory=list)
    title: str = ""

    @property
    def other_data(self) -> bool:
        """Whether the two runs of a pair were made from other data."""
        return any(a.facts.get("fingerprint") != b.facts.get("fingerprint") for a, b in self.pairs)


@dataclass(frozen=True)
class Comparison:
    """What tells two groups apart.

    Attributes:
        settings: that differ, with their values in A and B.
        origin: versions, weights, data, code and machines that differ, likewise.
        same: names of what both were made from alike.
        sections: one per setting that varies within the groups.
        unpaired: runs without a counterpart.
    """

    settings: dict[str, Values]
    origin: dict[str, Values]
    same: list[str]
    sections: list[Section]
    unpaired: list[Run]


def compare_runs(first: Sequence[Run], second: Sequence[Run], confidence: float = 0.95) -> Comparison:
    """Pairs the runs of two groups by seed and by whatever else varies within a group, and compares the pairs.

    Two single runs are a pair, whatever their seeds.

    Raises:
        ConfigError: several runs of a group have the same seed and settings.
    """
    alone = len(first) == len(second) == 1
    names = [name for name in GROUPS if any(len({run.facts[name] for run in runs}) > 1 for runs in (first, second))]
    sides = [
        {(("", "") if alone else key): run for key, run in _by_key(runs, names).items()} for runs in (first, second)
    ]
    keys = [key for key in sides[0] if key in sides[1]]
    by_name: dict[str, list[tuple[Run, Run]]] = {}
    for key in keys:
        by_name.setdefault(key[0], []).append((sides[0][key], sides[1][key]))
    sides_of = [([a], [b]) for pairs in by_name.values() for a, b in pairs] or [(list(first), list(second))]
    settings = _differing(sides_of, lambda run: {k: v for k, v in run.settings.items() if not k.startswith(SILENT)})
    made = _differing(sides_of, lambda run: origin_of(run.result))
    machine = _differing(sides_of, lambda run: {name: run.facts[name] for name in MACHINE if name in run.facts})
    known = dict.fromkeys(name for run in (*first, *second) for name in origin_of(run.result))
    return Comparison(
        settings=settings,
        origin=made | machine,
        same=[name for name in known if name not in made],
        sections=[_section(name, pairs, confidence) for name, pairs in by_name.items()],
        unpaired=[run for side in sides for key, run in side.items() if key not in keys],
    )


def _by_key(runs: Sequence[Run], names: Sequence[str]) -> dict[tuple[str, str], Run]:
    """The runs by what varies within their group, and by seed."""
    words = [{word for word in run.facts["overrides"] if tells_apart(word)} for run in runs]
    shared = set.intersection(*words)
    found: dict[tuple[str, str], Run] = {}
    for run, own in zip(runs, words, strict=True):
        key = " ".join([*(str(run.facts[name]) for name in names), *settings_of(own - shared)]), str(run.facts["seed"])
        if key in found:
            raise ConfigError(
                f"{found[key].folder.path} and {run.folder.path} are both {f'{key[0]}, ' if key[0] else ''}"
                f"seed {key[1]}: which one is meant? Give a folder or a pattern that holds one of them"
            )
        found[key] = run
    return found


def _differing(
    sides: Iterable[tuple[Sequence[Run], Sequence[Run]]], read: Callable[[Run], Mapping[str, Any]]
) -> dict[str, Values]:
    """Facts whose values are not the same on two sides; of those told later than others, only where both tell."""
    found: dict[str, Values] = {}
    for side in sides:
        told = [[read(run) for run in runs] for runs in side]
        for name in dict.fromkeys(name for facts in (*told[0], *told[1]) for name in facts):
            values = [_distinct(facts.get(name) for facts in those) for those in told]
            if values[0] != values[1] and not (name in LATER and [None] in values):
                for kept, own in zip(found.setdefault(name, ([], [])), values, strict=True):
                    kept += [value for value in own if value not in kept]
    return found


def _distinct(values: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return sorted(kept, key=str)


def _section(name: str, pairs: list[tuple[Run, Run]], confidence: float) -> Section:
    def compared(measure: Measure, values: Mapping[int, Any]) -> list[Compared]:
        first, second = ([values[id(pair[side])] for pair in pairs] for side in (0, 1))
        if not all(isinstance(value, int | float) for value in (*first, *second)):
            return []
        return [Compared(measure, first, second, compare(first, second, confidence))]

    runs = [run for pair in pairs for run in pair]
    protocol = runs[0].result.protocol
    if any(run.result.protocol is not protocol for run in runs):
        return Section(name, pairs)
    sessions = min(len(run.records) for run in runs)
    rows = {id(run): _last_row(run, sessions, protocol.entry) for run in runs}
    entry = {measure.key: measure for measure in protocol.line}.get(protocol.entry, Measure("", ""))
    by_class = {id(run): accuracies_after(run.folder.path, sessions - 1) for run in runs}
    curve, tasks, classes, metrics = [], [], [], []
    for index in range(sessions):
        values = {id(run): run.records[index].get(protocol.entry) for run in runs}
        curve += compared(replace(entry, heading=str(index)), values)
    for task in runs[0].records[sessions - 1]["tasks"] if sessions else ():
        values = {id(run): rows[id(run)].get(task["task"]) for run in runs}
        tasks += compared(replace(entry, heading=str(task.get("name") or f"task {task['task']}")), values)
    for known in by_class[id(runs[0])]:
        classes += compared(replace(entry, heading=known), {one: own.get(known) for one, own in by_class.items()})
    classes.sort(key=lambda line: -abs(line.paired.difference))
    for measure in (*protocol.columns, *protocol.details, *protocol.diagnostics, *COSTS):
        metrics += compared(measure, {id(run): run.summary.get(measure.key) for run in runs})
    return Section(name, pairs, curve, tasks if len(tasks) > 1 else [], classes, metrics, protocol.title)


def _last_row(run: Run, sessions: int, entry: str) -> dict[int, float]:
    """The entry of each task that was judged after the last of so many sessions."""
    row = table_of(run.records[:sessions]).matrix(entry)[-1] if sessions else ()
    return {task: float(value) for task, value in enumerate(row) if value == value}
