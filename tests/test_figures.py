from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.reporting.figures import (
    data_uri,
    plot_confusion,
    plot_cost,
    plot_curves,
    plot_heat_maps,
    plot_lines,
    plot_shots,
    plot_trade_off,
    save_figure,
)


def test_curves_have_a_line_per_label_and_a_band_over_seeds() -> None:
    figure = plot_curves({"one": [[90, 80]], "two": [[70, 60], [72, 64]]}, "title")
    (axes,) = figure.axes
    assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == [[90, 80], [71, 62]]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(62 - np.std([60, 64], ddof=1))
    assert heights.max() == pytest.approx(71 + np.std([70, 72], ddof=1))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


def test_28_labels_look_different() -> None:
    figure = plot_curves({f"method {index}": [[float(index)]] for index in range(28)}, "title")
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 28


def test_heat_maps_show_values_where_there_are_any() -> None:
    figure = plot_heat_maps({"a": [[90.4, np.nan], [80, 60]], "b": [[1, 2], [3, 4]]}, xlabel="x", ylabel="y", title="t")
    first, second, _ = figure.axes
    assert [text.get_text() for text in first.texts] == ["90", "80", "60"]
    assert len(second.texts) == 4


def test_a_large_matrix_is_drawn_without_its_numbers() -> None:
    few, many = (plot_heat_maps({"a": np.ones((n, n))}, xlabel="x", ylabel="y", title="t") for n in (25, 200))
    assert [len(figure.axes[0].texts) for figure in (few, many)] == [625, 0]
    assert many.get_figwidth() == few.get_figwidth()  # 200 sessions took minutes, and a picture of 80 megapixels


def test_empty_panels_are_left_out() -> None:
    figure = plot_heat_maps({name: [[1.0]] for name in "abcd"}, xlabel="x", ylabel="y", title="t")
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["a", "b", "c", "d"]
    assert len(figure.axes) == 5  # and the colour bar


def test_confusion_is_in_percent_of_a_row() -> None:
    figure = plot_confusion({"a": [[30, 10], [0, 5]]}, "t")
    assert [text.get_text() for text in figure.axes[0].texts] == ["75", "25", "0", "100"]


def test_trade_off_draws_equal_harmonic_means_in_sight() -> None:
    figure = plot_trade_off({"a": [(40.0, 60.0), (44.0, 62.0)], "b": [(70.0, 30.0)]}, "t")
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_color() == "0.7"]
    assert len(lines) == len(axes.texts) > 1
    for line, text in zip(lines, axes.texts, strict=True):
        base, novel = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        np.testing.assert_allclose(2 * base * novel / (base + novel), float(text.get_text().removeprefix("H ")))


def test_cost_begins_at_zero_where_something_is_free() -> None:
    figure = plot_cost({"free": [(0, 50.0)], "dear": [(6_494_049, 60.0)]}, xlabel="trained", title="t")
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[:2] == ["0", "1M"]
    figure = plot_cost({"a": [(20, 50.0)], "b": [(700, 60.0)]}, xlabel="seconds", title="t")
    assert figure.axes[0].get_xlim()[0] > 0


def test_shots_are_ticks() -> None:
    figure = plot_shots({"a": {4: [50.0], 1: [40.0, 44.0], 16: [60.0]}}, "t")
    assert figure.axes[0].get_xticks().tolist() == [1, 4, 16]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [42.0, 50.0, 60.0]  # type: ignore[union-attr]


def test_figures_are_files_and_addresses(tmp_path: Path) -> None:
    figure = plot_curves({"loss=$x_{1}$ <b>": [[1.0, 2.0]]}, "a.b")  # no mathematics, no mark-up
    written = save_figure(figure, tmp_path / "v0.1")
    assert [path.name for path in written] == ["v0.1.png", "v0.1.pdf"]
    with Image.open(written[0]) as picture:
        assert picture.width > 600
    assert written[1].read_bytes()[:5] == b"%PDF-"
    kind, _, content = data_uri(figure).partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert b"<svg" in base64.b64decode(content)
    assert data_uri(figure) == data_uri(figure)


def test_a_long_legend_leaves_the_axes_their_room() -> None:
    def room(labels: int) -> float:
        figure = plot_lines(
            {f"a method with a long name, and tuning={n}": [[1, 2]] for n in range(labels)},
            xlabel="",
            ylabel="",
            title="",
        )
        figure.draw_without_rendering()
        return float(figure.axes[0].get_window_extent().height)

    assert room(20) > 0.8 * room(2)
