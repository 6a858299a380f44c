"""Figures of what lies between two stored models; see `everclip.reporting.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from everclip.reporting.figures import STYLE, line_style, wrapped


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]  # rc keys are a closed list there
def plot_line(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Scores, and below them losses and sharpness, over the share of the way."""
    curves = [("score", "classes seen", 0), ("held_out", "held-out classes", 0)]
    curves += [("loss", "loss", 1), ("sharpness", "sharpness", 2)]
    there = [curve for curve in curves if rows[0][curve[0]] is not None]
    panels = sorted({panel for _, _, panel in there})
    figure = Figure(figsize=(6, 1.2 + 2.0 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for index, (key, label, panel) in enumerate(there):
        at = axes[panels.index(panel)]
        at.plot([row["alpha"] for row in rows], [row[key] for row in rows], label=label, **line_style(index))
        at.set_ylabel(f"{rows[0]['entry']} (%)" if panel == 0 else label)
    for at in axes:
        at.grid()
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("alpha, share of the way from A to B")
    figure.suptitle(wrapped(title), fontsize=10)
    return figure


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]
def plot_layers(rows: Sequence[Mapping[str, Any]], marked: Sequence[str], title: str) -> Figure:
    """Sharpness of every layer over the share of the way; layers that are `marked` as stragglers have a star."""
    layers = list(rows[0]["layers"])
    values = np.array([[row["layers"][layer] for row in rows] for layer in layers])
    figure = Figure(figsize=(3.2 + 0.42 * len(rows), 1.2 + 0.2 * len(layers)), layout="constrained")
    axes = figure.subplots()
    largest = max(float(np.abs(values).max()), 1e-12)
    norm = SymLogNorm(largest / 100, vmin=-largest, vmax=largest)  # a layer may be far sharper than all others
    figure.colorbar(axes.imshow(values, cmap="RdBu_r", norm=norm, aspect="auto")).ax.tick_params(labelsize=7)
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if abs(value) < largest / 4 else "white"
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(len(rows)), [f"{row['alpha']:g}" for row in rows])
    axes.set_yticks(range(len(layers)), [f"* {layer}" if layer in marked else layer for layer in layers])
    axes.tick_params(labelsize=7)
    axes.set_xlabel("alpha, share of the way from A to B")
    figure.suptitle(wrapped(f"sharpness of layers (* straggler), {title}", figure.get_figwidth()), fontsize=10)
    return figure
