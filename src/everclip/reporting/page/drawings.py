"""The figures of a page; imports matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from everclip.metrics.matrix import Matrix, forgetting
from everclip.metrics.protocol import Protocol
from everclip.reporting import figures
from everclip.reporting.stored import Run
from everclip.runs.scores import confusion_of, table_of

MAX_PANELS = 6  # heat maps in one figure; more cannot be read in print, and their values take seconds to draw


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        name: of its files.
        caption: what it shows.
        figure: of matplotlib.
    """

    name: str
    caption: str
    figure: Any


def drawings_of(groups: Mapping[str, list[Run]], sequence: str, protocol: Protocol) -> Iterator[Drawing]:
    """What the finished runs of a sequence, by label, allow to draw."""
    entry, label = protocol.entry, protocol.label
    curves = {name: [run.result.curve for run in runs] for name, runs in groups.items()}
    longest = max(len(run.records) for runs in groups.values() for run in runs)
    if longest > 1:
        caption = f"{_first(label)} after each session; bands of one standard deviation over seeds."
        yield Drawing(f"{entry}_per_session", caption, figures.plot_curves(curves, sequence, protocol.title))
    full = {name: runs for name, runs in groups.items() if len(runs[0].records) == longest}
    short = f" Without {len(groups) - len(full)} of {len(groups)} rows, which have fewer sessions."
    yield from (
        replace(drawing, caption=drawing.caption + (short if len(full) < len(groups) else ""))
        for drawing in _of_whole_runs(full, sequence, protocol)
    )
    yield from _shots(groups, sequence, protocol)


def _of_whole_runs(full: Mapping[str, list[Run]], sequence: str, protocol: Protocol) -> Iterator[Drawing]:
    """Figures that compare runs of equally many sessions."""
    yield from _matrices(full, sequence, protocol)
    if any(len(runs[0].records) > 1 for runs in full.values()):
        yield _forgetting(full, sequence, protocol)
    if len(full) > 1:
        yield from _base_and_novel(full, sequence, protocol)
        yield from _costs(full, sequence, protocol)


def _costs(groups: Mapping[str, list[Run]], sequence: str, protocol: Protocol) -> Iterator[Drawing]:
    """The average entry against what it took."""
    entry, label = protocol.entry, protocol.label
    for key, cost in (("trainable_parameters", "trained parameters"), ("train_seconds", "training time (s)")):
        points = {
            name: [(run.summary[key], run.summary[f"average_{entry}"]) for run in runs] for name, runs in groups.items()
        }
        figure = figures.plot_cost(
            points, xlabel=cost, ylabel=f"average {label} (%)", title=f"{sequence}: {label} and {cost}"
        )
        yield Drawing(f"{entry}_{key}", f"Average {label} against {cost}.", figure)


def _first(label: str) -> str:
    """A label at the begin of a sentence; one that has capitals of its own, as mIoU, stays."""
    return label.capitalize() if label.islower() else label


def _matrix(run: Run, entry: str) -> Matrix:
    return table_of(run.records).matrix(entry)


def _matrices(groups: Mapping[str, list[Run]], sequence: str, protocol: Protocol) -> Iterator[Drawing]:
    """Matrices of the entry and confusion between sessions, one panel per label."""
    panels = dict(list(groups.items())[:MAX_PANELS])
    left_out = f" The first {MAX_PANELS} of {len(groups)} rows." if len(groups) > MAX_PANELS else ""
    means = {name: np.mean([_matrix(run, protocol.entry) for run in runs], axis=0) for name, runs in panels.items()}
    caption = f"{_first(protocol.label)} on each task after each session, mean over seeds.{left_out}"
    figure = figures.plot_matrices(means, f"{sequence}: {protocol.label}")
    yield Drawing(f"{protocol.entry}_matrix", caption, figure)
    counted = {name: [confusion_of(run.records) for run in runs] for name, runs in panels.items()}
    counts = {
        name: np.sum([table for table in tables if table is not None], axis=0)
        for name, tables in counted.items()
        if all(table is not None for table in tables)
    }
    if any(figures.is_confused(table) for table in counts.values()):
        caption = f"Test pictures of each session by the session of the class they were taken for, in %.{left_out}"
        yield Drawing("confusion_between_sessions", caption, figures.plot_confusion(counts, sequence))


def _forgetting(groups: Mapping[str, list[Run]], sequence: str, protocol: Protocol) -> Drawing:
    forgotten = {
        name: [forgetting(_matrix(run, protocol.entry)[:, : len(run.records)]).tolist() for run in runs]
        for name, runs in groups.items()
    }
    caption = f"Best {protocol.label} on a task before the last session minus that after it."
    figure = figures.plot_lines(
        forgotten, xlabel="task", ylabel="forgetting (points)", title=f"{sequence}: forgetting per task"
    )
    return Drawing("forgetting_per_task", caption, figure)


def _base_and_novel(groups: Mapping[str, list[Run]], sequence: str, protocol: Protocol) -> Iterator[Drawing]:
    """The trade-off of the labels that were judged on both."""
    base, novel = (f"{part}_{protocol.entry}" for part in ("base", "novel"))
    last = {name: [run.records[-1] for run in runs] for name, runs in groups.items()}
    known = {
        name: [(record[base], record[novel]) for record in records]
        for name, records in last.items()
        if all(record.get(novel) is not None for record in records)
    }
    if known:
        label = protocol.label
        caption = f"{_first(label)} on base and on novel classes after the last session; grey: equal harmonic mean."
        figure = figures.plot_trade_off(known, f"{sequence}: base and novel classes", label)
        yield Drawing("base_novel", caption, figure)


def _shots(groups: Mapping[str, list[Run]], sequence: str, protocol: Protocol) -> Iterator[Drawing]:
    """The last entry against shots, of the methods that ran with several numbers of them."""
    series: dict[str, dict[int, list[float]]] = {}
    for label, runs in groups.items():
        shots = runs[0].settings.get("sequence.shots")
        if isinstance(shots, int):
            name = " ".join(word for word in label.split() if not word.startswith("sequence.shots="))
            values = series.setdefault(name, {}).setdefault(shots, [])
            values += [run.summary[f"last_{protocol.entry}"] for run in runs]
    several = {name: by_shots for name, by_shots in series.items() if len(by_shots) > 1}
    if several:
        caption = f"{_first(protocol.label)} after the last session against shots per class."
        figure = figures.plot_shots(several, f"{sequence}: shots", f"last {protocol.label} (%)")
        yield Drawing(f"{protocol.entry}_shots", caption, figure)
