"""What was seen of a run sample by sample: tables, CSV files and figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip import storage
from everclip.errors import MissingError
from everclip.metrics.predictions import (
    Predictions,
    calibration,
    calibration_error,
    changes,
    class_accuracies,
    confusions,
)
from everclip.reporting.formats import console
from everclip.reporting.grid import Cell, Column, Grid, Line
from everclip.reporting.plain import plain

LISTED = 10  # classes and confusions on the console
SIDE_BY_SIDE = 9
FIGURES = {
    "classes": "accuracy of each class after each session",
    "confusion": "what classes are taken for",
    "calibration": "accuracy over confidence",
    "features": "test samples in a plane, by their features",
}
Names = Mapping[int, str]


@dataclass(frozen=True)
class Looked:
    """What a session's model makes of N samples, one task after the other.

    Attributes:
        session: its index.
        found: on the samples.
        tasks: (N,) the task of each.
        samples: (N,) its position in the task.
        features: (N, E) of length 1, or (N, 0).
    """

    session: int
    found: Predictions
    tasks: NDArray[np.int64]
    samples: NDArray[np.int64]
    features: NDArray[np.float32]


def require_tsne() -> None:
    """Looks for scikit-learn.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError as error:
        raise MissingError("--features tsne needs scikit-learn: pip install scikit-learn; or --features pca") from error


def few(looked: Sequence[Looked]) -> list[Looked]:
    """As many sessions as people look at side by side, the first and the last among them."""
    places = np.linspace(0, len(looked) - 1, min(len(looked), SIDE_BY_SIDE)).round().astype(int)
    return [looked[place] for place in places]


def told(looked: Sequence[Looked], names: Names) -> str:
    """For the console: the sessions, the classes that lost most, and what the last model confuses most."""
    lost = [classes_grid(few(looked), names)] if len(looked) > 1 else []
    grids = (sessions_grid(looked), *lost, confused(looked[-1], names))
    return "\n".join(f"{grid.title}\n{console(grid)}" for grid in grids)


def sessions_grid(looked: Sequence[Looked]) -> Grid:
    """One line per session: accuracy and calibration over all samples, and what changed since the one before."""
    lines, before = [], None
    for now in looked:
        gained, lost = (None, None) if before is None else map(len, changed(before, now))
        error = 100 * calibration_error(calibration(now.found))
        values = (now.session, len(now.tasks), 100 * now.found.right.mean(), 100 * now.found.confidence.mean(), error)
        lines.append(Line([Cell(value) for value in (*values, gained, lost)]))
        before = now
    heads = [("session", 0), ("samples", 0), ("accuracy", 2), ("confidence", 2), ("ECE", 2), ("gained", 0), ("lost", 0)]
    return Grid(
        "Sessions: accuracy, confidence and its error (ECE) in %, samples gained and lost",
        [Column(head, digits=digits) for head, digits in heads],
        lines,
    )


def changed(before: Looked, now: Looked) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in `now` of the samples of both that only it recognises (gained), and that it no longer does (lost)."""
    known = {place: row for row, place in enumerate(zip(before.tasks.tolist(), before.samples.tolist(), strict=True))}
    places = zip(now.tasks.tolist(), now.samples.tolist(), strict=True)
    rows = np.array([(row, known[place]) for row, place in enumerate(places) if place in known]).reshape(-1, 2)
    gained, lost = changes(_of(before.found, rows[:, 1]), _of(now.found, rows[:, 0]))
    return rows[gained, 0], rows[lost, 0]


def _of(found: Predictions, rows: NDArray[np.int64]) -> Predictions:
    return Predictions(found.labels[rows], found.predicted[rows], found.confidence[rows])


def by_class(looked: Sequence[Looked]) -> dict[int, list[float | None]]:
    """Accuracy in % of each class after each session, None before it is judged."""
    found = [class_accuracies(session.found) for session in looked]
    ids = dict.fromkeys(class_id for own in found for class_id in own)
    return {c: [100 * own[c][0] / own[c][1] if c in own else None for own in found] for c in ids}


def classes_grid(looked: Sequence[Looked], names: Names) -> Grid:
    """The classes that have lost most since their first session."""

    def lost(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return known[-1] - known[0]

    rows = sorted(by_class(looked).items(), key=lambda row: lost(row[1]))[:LISTED]
    heads = [Column("class", numeric=False), *(Column(f"after {session.session}", digits=1) for session in looked)]
    lines = [Line([Cell(plain(names[c])), *map(Cell, values), Cell(lost(values), signed=True)]) for c, values in rows]
    return Grid("Classes that have lost most", [*heads, Column("change", digits=1)], lines)


def confused(looked: Looked, names: Names) -> Grid:
    """What a session's model takes for something else most often."""
    last = looked.found
    counts = class_accuracies(last)
    lines = [
        Line([Cell(plain(names[label])), Cell(plain(names[taken])), Cell(count), Cell(100 * count / counts[label][1])])
        for (label, taken), count in confusions(last).most_common(LISTED)
    ]
    columns = [Column("class", numeric=False), Column("taken for", numeric=False), Column("samples", digits=0)]
    return Grid("Taken for another", [*columns, Column("% of the class", digits=1)], lines)


def write(looked: Sequence[Looked], names: Names, target: Path, method: str) -> list[Path]:
    """Writes CSV files and figures below a folder; which these are.

    Args:
        looked: sessions in order.
        names: of classes.
        target: the folder.
        method: of the map of features: `pca`, `tsne`, or `off`.
    """
    from everclip.reporting import inspection_figures as draw
    from everclip.reporting.figures import save_figure

    files = []
    for name, text in tables(looked, names).items():
        storage.write_text(target / name, text)
        files.append(target / name)
    last, ends = looked[-1], {s.session: calibration(s.found) for s in (looked[0], looked[-1])}
    figures = {
        "calibration": draw.plot_calibration({f"session {session}": bins for session, bins in ends.items()}),
        "classes": draw.plot_classes(by_class(looked), names, [s.session for s in looked]),
        "confusion": draw.plot_confusion(last.found, names, last.session),
    }
    if method != "off":
        figures["features"] = draw.plot_features(few(looked), names, method)
    for name, figure in figures.items():
        files += save_figure(figure, target / name)
    return files


def tables(looked: Sequence[Looked], names: Names) -> dict[str, str]:
    """CSV files by name."""
    sessions = [session.session for session in looked]
    accuracies = ([c, plain(names[c]), *values] for c, values in by_class(looked).items())
    confusion = [
        [session.session, label, plain(names[label]), taken, plain(names[taken]), count]
        for session in looked
        for (label, taken), count in confusions(session.found).most_common()
    ]
    bins = [
        [session.session, each.low, each.high, each.count, each.confidence, each.accuracy]
        for session in looked
        for each in calibration(session.found)
    ]
    moved = [
        [before.session, now.session, kind, int(now.tasks[row]), int(now.samples[row]),
         plain(names[int(now.found.labels[row])]), plain(names[int(now.found.predicted[row])])]
        for before, now in pairwise(looked)
        for kind, rows in zip(("gained", "lost"), changed(before, now), strict=True)
        for row in rows.tolist()
    ]  # fmt: skip
    return {
        "per_class.csv": _csv(["class_id", "class", *(f"session_{k:02d}" for k in sessions)], accuracies),
        "confusion.csv": _csv(["session", "class_id", "class", "taken_for_id", "taken_for", "count"], confusion),
        "calibration.csv": _csv(["session", "low", "high", "count", "confidence", "accuracy"], bins),
        "changes.csv": _csv(["before", "after", "change", "task", "sample", "class", "taken_for"], moved),
    }


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *rows])
    return buffer.getvalue()


def accuracies_after(folder: Path, session: int) -> dict[str, float]:
    """Accuracy in % by class after a session, as `write` left it in a run folder; empty where it did not."""
    column = f"session_{session:02d}"
    try:
        rows = list(csv.DictReader((folder / "inspection" / "per_class.csv").read_text().splitlines()))
        return {row["class"]: float(row[column]) for row in rows if row.get(column)}
    except (OSError, ValueError, KeyError):
        return {}


def stored(folder: Path) -> tuple[list[Grid], list[dict[str, str]]]:
    """What `write` left in a run folder, as a page holds it: accuracies by class, and figures with their captions."""
    from base64 import b64encode

    place, figures = folder / "inspection", []
    try:
        head, *rows = csv.reader((place / "per_class.csv").read_text().splitlines())
        for name, caption in FIGURES.items():
            if (file := place / f"{name}.png").is_file():
                source = f"data:image/png;base64,{b64encode(file.read_bytes()).decode()}"
                figures.append({"caption": caption, "source": source})
    except (OSError, ValueError):
        return [], []
    columns = [
        Column("class", numeric=False),
        *(Column(name.replace("session_", "after "), digits=1) for name in head[2:]),
    ]
    lines = [Line([Cell(row[1]), *(Cell(float(value) if value else None) for value in row[2:])]) for row in rows]
    return [Grid("Accuracy by class (%)", columns, lines)], figures
