"""Procedural 32x32 pictures of discs that can be ordered by several attributes, each independent of the others.

Everything comes from a PCG64 stream keyed by (seed, split, set, position), so a picture depends on nothing but these.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everclip.data.drawing import shapes
from everclip.data.drawing.shapes import Style

VERSION = 1  # raise when the same arguments give other pictures or values
LOW, HIGH = 1, 9  # of the values of every attribute
GRID = 3  # discs are in cells of their own
RADIUS = (0.09, 0.29)  # relative to half the picture
BRIGHTNESS = (0.35, 1.0)
BLUE, RED = np.array([0.12, 0.22, 0.85], np.float32), np.array([0.85, 0.10, 0.10], np.float32)
STYLE = Style(background=(0.75, 0.9), background_tint=0.04, gradient=0.04)

# What a text calls them.
ATTRIBUTES: dict[str, str] = {
    "number": "the number of circles",
    "size": "the size of the circles",
    "brightness": "how bright the picture is",
    "redness": "how red the circles are",
}


class Discs(NamedTuple):
    """Pictures (N, 32, 32, 3) uint8, RGB, and their values (N,) from `LOW` to `HIGH` by attribute."""

    pixels: NDArray[np.uint8]
    values: dict[str, NDArray[np.float64]]


def draw_discs(count: int, *, seed: int, split: int, name: str) -> Discs:
    """The first `count` pictures of a set.

    Args:
        count: how many; picture i is the same whatever the count is.
        seed: seed of the whole data set.
        split: 0 for training, 1 for test; keeps the two apart.
        name: of the set; keeps it apart from others.
    """
    drawn = [_draw_picture([VERSION, seed, split, *name.encode(), i]) for i in range(count)]
    values = np.array([values for _, values in drawn], np.float64)
    return Discs(np.concatenate([pixels for pixels, _ in drawn]), dict(zip(ATTRIBUTES, values.T, strict=True)))


def _draw_picture(key: list[int]) -> tuple[NDArray[np.uint8], list[float]]:
    """One picture (1, 32, 32, 3) and its values in the order of `ATTRIBUTES`."""
    draw, (x, y) = shapes.drawer(np.random.Generator(np.random.PCG64(key)), 1), shapes.canvas()
    size, bright, red = draw(3)[0].tolist()
    number = LOW + int((HIGH - LOW + 1) * draw().item())
    radius = _between(RADIUS, size)
    picture = shapes.background(draw, STYLE, (x, y))
    cells = np.argsort(draw(GRID * GRID)[0])[:number]
    room = 1 / GRID - radius  # between a disc in the middle of its cell and the cell's border
    for cell, (right, up) in zip(cells, draw(GRID * GRID, 2)[0, :number], strict=True):
        row, column = divmod(int(cell), GRID)
        middle = (2 * column + 1) / GRID - 1 + room * (2 * right - 1), 1 - (2 * row + 1) / GRID + room * (2 * up - 1)
        inside = np.hypot(x - middle[0], y - middle[1]) < radius
        picture = np.where(inside[None, ..., None], BLUE + red * (RED - BLUE), picture)
    pixels = shapes.develop(picture * _between(BRIGHTNESS, bright), draw, STYLE)
    return pixels, [number, *(_between((LOW, HIGH), share) for share in (size, bright, red))]


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share
