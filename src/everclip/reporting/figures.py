"""Figures of results: readable in print, and told apart with any colour vision. Imports matplotlib; import it late."""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import ArrayLike, NDArray

from everclip import storage

# Okabe-Ito colours; markers and line styles tell the same apart without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*P"
TOLD = 25  # rows and columns of a heat map whose values are written into it
LINES = ("-", "--", ":", "-.")
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "lines.markersize": 5,
    "text.parse_math": False,  # labels are settings: a dollar sign is one
    "pdf.fonttype": 42,  # publishers want embedded TrueType
    "svg.hashsalt": "everclip",  # the same figure is the same file
}
Series = Mapping[str, Sequence[Sequence[float]]]  # by label, one sequence per run


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and line style of the index-th label; 28 labels differ."""
    turn, colour = divmod(index, len(COLOURS))
    return {
        "color": COLOURS[colour],
        "marker": MARKERS[(colour + turn) % len(MARKERS)],
        "linestyle": LINES[turn % len(LINES)],
    }


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample standard deviation over runs, 0 for a single one."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _legend(figure: Figure, axes: Axes) -> None:
    """The legend below the axes, where it hides nothing; the figure grows by its lines."""
    handles, labels = axes.get_legend_handles_labels()
    handles = [entry[0] if isinstance(entry, ErrorbarContainer) else entry for entry in handles]  # bars hide the mark
    texts = [textwrap.fill(label, 60) for label in labels]
    longest = max((len(line) for label in texts for line in label.splitlines()), default=1)
    columns = max(1, min(4, len(labels), 88 // (longest + 6)))
    lines = max((label.count("\n") + 1 for label in texts), default=1) * math.ceil(len(labels) / columns)
    figure.set_figheight(3.6 + 0.2 * lines)
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, frameon=False)


def wrapped(title: str, width: float = 6.0) -> str:
    """A title in lines that a figure of some inches has room for."""
    return textwrap.fill(title, int(12 * width))


def _short(number: float) -> str:
    """`500k`, `20M`: as many figures as an axis has room for."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{sign}"
    return f"{number:g}"


def _new() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.grid()
    axes.set_axisbelow(True)
    return figure, axes


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]  # rc keys are a closed list there
def plot_lines(series: Series, *, xlabel: str, ylabel: str, title: str, first: int = 0) -> Figure:
    """One line per label over 0, 1, ... (or from `first`), with a band of one standard deviation over its runs."""
    figure, axes = _new()
    for index, (label, runs) in enumerate(series.items()):
        values = np.array(runs, dtype=float)
        mean, spread, at = values.mean(axis=0), _spread(values), first + np.arange(values.shape[1])
        axes.plot(at, mean, label=label, **line_style(index))
        if len(values) > 1:
            axes.fill_between(
                at, mean - spread, mean + spread, color=line_style(index)["color"], alpha=0.2, linewidth=0
            )
    axes.set(xlabel=xlabel, ylabel=ylabel, title=wrapped(title))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, axes)
    return figure


def plot_curves(curves: Series, title: str, ylabel: str = "accuracy over all seen classes (%)") -> Figure:
    """A value per session."""
    return plot_lines(curves, xlabel="session", ylabel=ylabel, title=title)


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]
def plot_shots(
    series: Mapping[str, Mapping[int, Sequence[float]]], title: str, ylabel: str = "last accuracy (%)"
) -> Figure:
    """A value against shots per class, which are spaced evenly on a logarithmic axis; bars over runs."""
    figure, axes = _new()
    for index, (label, by_shots) in enumerate(series.items()):
        shots = sorted(by_shots)
        values = [np.array(by_shots[count], dtype=float) for count in shots]
        means, spreads = [value.mean() for value in values], [float(_spread(value)) for value in values]
        axes.errorbar(shots, means, spreads, label=label, capsize=2, **line_style(index))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({count for by_shots in series.values() for count in by_shots}))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel="shots per class", ylabel=ylabel, title=wrapped(title))
    _legend(figure, axes)
    return figure


def _scatter(axes: Axes, points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """One mark per label at the mean of its runs, with bars of one standard deviation."""
    for index, (label, runs) in enumerate(points.items()):
        values = np.array(runs, dtype=float)
        (x, y), (dx, dy) = values.mean(axis=0), _spread(values)
        style = line_style(index) | {"linestyle": "none", "markersize": 8}
        axes.errorbar([x], [y], xerr=[dx], yerr=[dy], label=label, capsize=2, **style)


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]
def plot_trade_off(points: Mapping[str, Sequence[tuple[float, float]]], title: str, label: str = "accuracy") -> Figure:
    """A value on novel classes against that on base classes, with lines of equal harmonic mean.

    Args:
        points: by label, (base, novel) in % per run.
        title: of the figure.
        label: what the value is.
    """
    figure, axes = _new()
    _scatter(axes, points)
    axes.margins(0.12)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    base = np.linspace(max(left, 0.5), right, 200)
    for mean in range(10, 100, 10):
        with np.errstate(divide="ignore"):
            novel = np.where(2 * base > mean, mean * base / (2 * base - mean), np.inf)
        inside = (novel >= bottom) & (novel <= top)
        if inside.any():
            axes.plot(base[inside], novel[inside], color="0.7", linewidth=0.8, zorder=0)
            at = np.flatnonzero(inside)[-1]
            axes.annotate(f"H {mean}", (base[at], novel[at]), color="0.4", fontsize=7, ha="right", va="bottom")
    axes.set(xlim=(left, right), ylim=(bottom, top), title=wrapped(title))
    axes.set(xlabel=f"{label} on base classes (%)", ylabel=f"{label} on novel classes (%)")
    _legend(figure, axes)
    return figure


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]
def plot_cost(
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    xlabel: str,
    title: str,
    ylabel: str = "average accuracy (%)",
) -> Figure:
    """A value against a cost on a logarithmic axis that begins with 0.

    Args:
        points: by label, (cost, value in %) per run.
        xlabel: the cost.
        title: of the figure.
        ylabel: the value.
    """
    figure, axes = _new()
    _scatter(axes, points)
    costs = [cost for runs in points.values() for cost, _ in runs]
    smallest = min((cost for cost in costs if cost > 0), default=1.0)
    start, highest = 10.0 ** np.floor(np.log10(smallest)), max(*costs, smallest)
    steps = (1, 2, 5) if highest < 100 * start else (1,)
    ticks = [start * 10**power * step for power in range(10) for step in steps]
    axes.set_xscale("symlog", linthresh=start)
    axes.set_xticks([0.0, *(tick for tick in ticks if tick <= 2 * highest)])
    axes.xaxis.set_major_formatter(lambda cost, _: _short(cost))
    axes.set_xlim(left=smallest / 1.5 if min(costs) > 0 else -start / 5, right=highest * 2)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=wrapped(title))
    _legend(figure, axes)
    return figure


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]
def plot_heat_maps(matrices: Mapping[str, ArrayLike], *, xlabel: str, ylabel: str, title: str) -> Figure:
    """One heat map of percentages per label, with its values where there is room for them; NaN stays empty."""
    arrays = {label: np.asarray(matrix, dtype=float) for label, matrix in matrices.items()}
    rows, columns = (max(array.shape[axis] for array in arrays.values()) for axis in (0, 1))
    across = min(len(arrays), 3)
    down = -(-len(arrays) // across)
    told = max(rows, columns) <= TOLD
    width, height = (max(least, cell * min(n, TOLD)) for least, cell, n in ((1.9, 0.36, columns), (1.3, 0.26, rows)))
    figure = Figure(figsize=(across * width + 1.2, down * (height + 0.5) + 0.6), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, (label, array) in zip(panels, arrays.items(), strict=False):
        image = axes.imshow(array, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(array):
            if told and not np.isnan(value):
                colour = "white" if value < 60 else "black"
                text = axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
                text.set_in_layout(False)  # inside its cell; measuring hundreds takes seconds
        axes.set_title("\n".join(textwrap.wrap(label, max(16, int(9 * width)))), fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[len(arrays) :]:
        axes.remove()
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=10)
    figure.colorbar(image, ax=figure.axes, label="%", shrink=0.8, aspect=30 * down, pad=0.02)
    return figure


def plot_matrices(matrices: Mapping[str, ArrayLike], title: str) -> Figure:
    """Matrices (T, J) in %, by session and task."""
    return plot_heat_maps(matrices, xlabel="task", ylabel="after session", title=title)


def is_confused(counts: ArrayLike) -> bool:
    """Whether there is anything to see in a confusion; not where every task has classes of its own to choose from."""
    table = np.asarray(counts)
    return bool(np.any(table != np.diag(np.diag(table))))


def plot_confusion(counts: Mapping[str, ArrayLike], title: str) -> Figure:
    """Confusion between sessions, from counts (S, S), as the share of each row."""
    arrays = {label: np.asarray(table, dtype=float) for label, table in counts.items()}
    shares = {label: 100 * table / table.sum(axis=1, keepdims=True) for label, table in arrays.items()}
    xlabel, ylabel = "session of the predicted class", "session of the true class"
    return plot_heat_maps(shares, xlabel=xlabel, ylabel=ylabel, title=f"{title}: confusion after the last session")


def _rendered(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix, {})
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure as PNG and PDF; `path` is without suffix."""
    written = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "pdf")]
    for file in written:
        storage.write_bytes(file, _rendered(figure, file.suffix[1:]))
    return written


def data_uri(figure: Figure) -> str:
    """A figure as an address that holds it, in SVG."""
    return "data:image/svg+xml;base64," + base64.b64encode(_rendered(figure, "svg")).decode()
