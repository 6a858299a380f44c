"""Figures of single samples and classes of a run; see `everclip.reporting.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from everclip.metrics.predictions import Bin, Predictions
from everclip.reporting.figures import STYLE, TOLD, line_style, plot_heat_maps, wrapped

if TYPE_CHECKING:
    from everclip.reporting.inspection import Looked

MAPPED = 10  # classes in the map of features
POINTS = 40  # samples of each
ROOM = 100  # rows and columns of a heat map that can be told apart


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]  # rc keys are a closed list there
def plot_calibration(bins: Mapping[str, Sequence[Bin]]) -> Figure:
    """Accuracy over confidence; on the diagonal a model knows how sure it may be."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=1)
    for index, (label, rows) in enumerate(bins.items()):
        values = np.array([(100 * row.confidence, 100 * row.accuracy) for row in rows])
        axes.plot(values[:, 0], values[:, 1], label=label, **line_style(index))
    axes.set(xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    axes.grid()
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def plot_classes(values: Mapping[int, Sequence[float | None]], names: Mapping[int, str], sessions: list[int]) -> Figure:
    """Accuracy of classes (rows) after sessions (columns)."""
    array = np.array([[np.nan if value is None else value for value in row] for row in values.values()])
    figure = plot_heat_maps({"": array}, xlabel="after session", ylabel="class", title="accuracy by class (%)")
    axes = figure.axes[0]
    axes.set_xticks(range(len(sessions)), list(map(str, sessions)))
    _name_rows(figure, [names[c] for c in values])
    return figure


def plot_confusion(found: Predictions, names: Mapping[int, str], session: int) -> Figure:
    """What classes (rows) are taken for (columns), in % of each row; of many classes those that are confused most."""
    ids = list(dict.fromkeys([*found.labels.tolist(), *found.predicted.tolist()]))
    place = {class_id: position for position, class_id in enumerate(ids)}
    counts = np.zeros((len(ids), len(ids)))
    np.add.at(counts, ([place[c] for c in found.labels.tolist()], [place[c] for c in found.predicted.tolist()]), 1)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    kept = np.sort(np.argsort(-wrong, kind="stable")[:ROOM])
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    some = f", the {ROOM} of {len(ids)} classes that are confused most" if len(ids) > ROOM else ""
    title = f"confusion of classes after session {session}{some} (% of a row)"
    figure = plot_heat_maps({"": shares[np.ix_(kept, kept)]}, xlabel="taken for", ylabel="class", title=title)
    _name_rows(figure, [names[ids[row]] for row in kept])
    return figure


def _name_rows(figure: Figure, labels: Sequence[str]) -> None:
    if len(labels) <= 2 * TOLD:
        figure.axes[0].set_yticks(range(len(labels)), [wrapped(label, 2) for label in labels], fontsize=6)


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]
def plot_features(looked: Sequence[Looked], names: Mapping[int, str], method: str) -> Figure:
    """A map of features, of the same samples in one plane after every session."""
    chosen = list(dict.fromkeys(looked[0].found.labels.tolist()))[:MAPPED]
    rows = [_some(session, chosen) for session in looked]
    flat = flattened(np.concatenate([s.features[own] for s, own in zip(looked, rows, strict=True)]), method)
    across = min(len(looked), 3)
    down = -(-len(looked) // across)
    figure = Figure(figsize=(2.7 * across + 1.5, 2.6 * down + 0.4), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat)
    start = 0
    for axes, session, own in zip(panels, looked, rows, strict=False):
        places, labels = flat[start : start + len(own)], session.found.labels[own]
        start += len(own)
        for index, class_id in enumerate(chosen):
            style = line_style(index) | {"linestyle": "none", "markersize": 3}
            axes.plot(*places[labels == class_id].T, label=names[class_id], **style)
        axes.set(title=f"after session {session.session}", xticks=[], yticks=[])
    for axes in panels[len(looked) :]:
        axes.remove()
    handles, labels_ = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels_, loc="outside right center", frameon=False, fontsize=7)
    figure.suptitle(f"features of test samples ({'t-SNE' if method == 'tsne' else 'PCA'})", fontsize=10)
    return figure


def _some(session: Looked, chosen: Sequence[int]) -> NDArray[np.int64]:
    """The first samples of the chosen classes."""
    labels = session.found.labels
    return np.concatenate([np.flatnonzero(labels == class_id)[:POINTS] for class_id in chosen])


def flattened(features: NDArray[np.float32], method: str) -> NDArray[np.float64]:
    """Features (N, E) in a plane (N, 2)."""
    centred = features.astype(np.float64) - features.mean(axis=0)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        placed: NDArray[np.float64] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(centred)
        return placed
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T
