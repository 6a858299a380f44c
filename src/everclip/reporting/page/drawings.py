"""The figures of a page; imports matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from everclip.metrics.accuracy_matrix import forgetting
from everclip.reporting import figures
from everclip.reporting.page.runs import Run
from everclip.runs.folder import accuracy_of, confusion_of

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


def drawings_of(groups: Mapping[str, list[Run]], sequence: str) -> Iterator[Drawing]:
    """What the finished runs of a sequence, by label, allow to draw."""
    curves = {label: [run.result.curve for run in runs] for label, runs in groups.items()}
    caption = "Accuracy after each session; bands of one standard deviation over seeds."
    yield Drawing("accuracy_per_session", caption, figures.plot_curves(curves, sequence))
    longest = max(len(run.records) for runs in groups.values() for run in runs)
    full = {label: runs for label, runs in groups.items() if len(runs[0].records) == longest}
    yield from _matrices(full, sequence)
    if longest > 1:
        yield from _sessions(full, sequence)
    for key, cost in (("trainable_parameters", "trained parameters"), ("train_seconds", "training time (s)")):
        points = {
            label: [(run.summary[key], run.summary["average_accuracy"]) for run in runs] for label, runs in full.items()
        }
        figure = figures.plot_cost(points, xlabel=cost, title=f"{sequence}: accuracy and {cost}")
        yield Drawing(f"accuracy_{key}", f"Average accuracy against {cost}.", figure)
    yield from _shots(groups, sequence)


def _matrices(groups: Mapping[str, list[Run]], sequence: str) -> Iterator[Drawing]:
    """Accuracy matrices and confusion between sessions, one panel per label."""
    panels = dict(list(groups.items())[:MAX_PANELS])
    left_out = f" The first {MAX_PANELS} of {len(groups)} rows." if len(groups) > MAX_PANELS else ""
    means = {label: np.mean([accuracy_of(run.records) for run in runs], axis=0) for label, runs in panels.items()}
    caption = f"Accuracy on each task after each session, mean over seeds.{left_out}"
    yield Drawing("accuracy_matrix", caption, figures.plot_accuracy(means, sequence))
    counts = {label: np.sum([confusion_of(run.records) for run in runs], axis=0) for label, runs in panels.items()}
    if any(np.any(table != np.diag(np.diag(table))) for table in counts.values()):
        caption = f"Test pictures of each session by the session of the class they were taken for, in %.{left_out}"
        yield Drawing("confusion_between_sessions", caption, figures.plot_confusion(counts, sequence))


def _sessions(groups: Mapping[str, list[Run]], sequence: str) -> Iterator[Drawing]:
    """What there is to see from the second session on."""
    forgotten = {
        label: [forgetting(accuracy_of(run.records)[:, : len(run.records)]).tolist() for run in runs]
        for label, runs in groups.items()
    }
    caption = "Best accuracy on a task before the last session minus the accuracy after it."
    figure = figures.plot_lines(
        forgotten, xlabel="task", ylabel="forgetting (points)", title=f"{sequence}: forgetting per task"
    )
    yield Drawing("forgetting_per_task", caption, figure)
    both = {
        label: [(run.records[-1]["base_accuracy"], run.records[-1]["novel_accuracy"]) for run in runs]
        for label, runs in groups.items()
    }
    caption = "Accuracy on base and on novel classes after the last session; grey: equal harmonic mean."
    yield Drawing("base_novel", caption, figures.plot_trade_off(both, f"{sequence}: base and novel classes"))


def _shots(groups: Mapping[str, list[Run]], sequence: str) -> Iterator[Drawing]:
    """Accuracy against shots, of the methods that ran with several numbers of them."""
    series: dict[str, dict[int, list[float]]] = {}
    for label, runs in groups.items():
        shots = runs[0].settings.get("sequence.shots")
        if isinstance(shots, int):
            name = " ".join(word for word in label.split() if not word.startswith("sequence.shots="))
            values = series.setdefault(name, {}).setdefault(shots, [])
            values += [run.summary["last_accuracy"] for run in runs]
    several = {name: by_shots for name, by_shots in series.items() if len(by_shots) > 1}
    if several:
        caption = "Accuracy after the last session against shots per class."
        yield Drawing("accuracy_shots", caption, figures.plot_shots(several, f"{sequence}: shots"))
