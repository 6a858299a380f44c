"""Procedural 32x32 pictures of named shapes: the embedded, offline data of Everclip.

Every class is a combination of three attributes, named as English text ("striped red star"). A `Style` says how a
picture is rendered; the same class looks different in two styles, which is what makes a pre-trained model's zero-shot
accuracy meaningful but improvable. All randomness comes from uniform draws of a PCG64 stream keyed by
(seed, split, class), so a picture depends on nothing but these and its position.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 throughout
Draw = Callable[..., Array]  # uniform draws (n, *shape) in [0, 1)

VERSION = 1  # raise when the same arguments give other pictures
SIZE = 32
SUPERSAMPLE = 2

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.95, 0.90, 0.15),
    "green": (0.12, 0.62, 0.18),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.12, 0.22, 0.85),
    "purple": (0.50, 0.12, 0.68),
    "pink": (0.98, 0.55, 0.75),
    "brown": (0.48, 0.28, 0.12),
    "gray": (0.50, 0.50, 0.50),
}


def _polygon_distance(u: Array, v: Array, corners: int, turn: float) -> Array:
    """Gauge of a regular polygon: 1 on its border for circumradius 1."""
    step = 2 * math.pi / corners
    angle = np.mod(np.arctan2(v, u) - turn, step) - step / 2
    return np.hypot(u, v) * np.cos(angle) / math.cos(step / 2)


def _star(u: Array, v: Array) -> Array:
    step = 2 * math.pi / 5
    angle = np.abs(np.mod(np.arctan2(v, u) - math.pi / 2 + step / 2, step) - step / 2)
    inner = 0.42
    # Border between the tip (angle 0, radius 1) and the notch (angle step / 2, radius `inner`): a straight line.
    notch_x, notch_y = inner * math.cos(step / 2), inner * math.sin(step / 2)
    radius = np.hypot(u, v)
    return radius * (np.cos(angle) * notch_y + np.sin(angle) * (1 - notch_x)) / notch_y


def _heart(u: Array, v: Array) -> Array:
    x, y = 1.15 * np.abs(u), 1.15 * v + 0.25
    return np.sqrt(x**2 + (y - 0.72 * np.sqrt(x)) ** 2)


def _cross(u: Array, v: Array) -> Array:
    x, y = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(x, y) / 0.95, np.minimum(x, y) / 0.32)


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.68) / 0.27


def _crescent(u: Array, v: Array) -> Array:
    return np.maximum(np.hypot(u, v) / 0.95, 2.0 - np.hypot(u - 0.5, v) / 0.72)


# Each gauge is below 1 inside its shape; (u, v) in [-1, 1], v upwards.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda u, v: np.hypot(u, v) / 0.88,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) / 0.76,
    "triangle": lambda u, v: _polygon_distance(u, v + 0.15, 3, math.pi / 2),
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "diamond": lambda u, v: np.abs(u) / 0.6 + np.abs(v) / 0.98,
    "ring": _ring,
    "hexagon": lambda u, v: _polygon_distance(u, v, 6, 0.0) / 0.95,
    "crescent": _crescent,
}

# Each pattern gives the share of the second tone at object coordinates (u, v) for a gauge g.
TEXTURES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "plain": lambda u, v, g: np.zeros_like(u),
    "striped": lambda u, v, g: (np.sin(11.0 * v) > 0).astype(np.float32),
    "dotted": lambda u, v, g: ((np.mod(u * 1.9, 1) - 0.5) ** 2 + (np.mod(v * 1.9, 1) - 0.5) ** 2 < 0.085).astype(
        np.float32
    ),
    "checkered": lambda u, v, g: (np.sin(6.5 * u) * np.sin(6.5 * v) > 0).astype(np.float32),
    "outlined": lambda u, v, g: (g < 0.72).astype(np.float32),
}


@dataclass(frozen=True)
class Style:
    """How pictures are rendered. Angles in degrees, sizes relative to half the picture, tones in [0, 1].

    `second_tone` is what patterns are drawn with: the object's colour mixed towards white (1) or black (0).
    """

    rotation: float = 15.0
    scale: tuple[float, float] = (0.75, 0.95)
    background: tuple[float, float] = (0.60, 1.0)
    background_tint: float = 0.08
    gradient: float = 0.10
    second_tone: float = 1.0
    colour_jitter: float = 0.04
    brightness: tuple[float, float] = (0.85, 1.0)
    noise: float = 0.02
    clutter: int = 0


STYLES: dict[str, Style] = {
    "cards": Style(),
    "scenes": Style(
        rotation=35.0,
        scale=(0.55, 0.9),
        background=(0.40, 0.85),
        background_tint=0.16,
        gradient=0.2,
        colour_jitter=0.06,
        brightness=(0.7, 1.0),
        noise=0.04,
        clutter=2,
    ),
    "playing_cards": Style(
        rotation=180.0, scale=(0.6, 0.8), background=(0.85, 1.0), gradient=0.02, second_tone=0.0, noise=0.03
    ),
    "night_sky": Style(
        rotation=180.0,
        scale=(0.6, 0.85),
        background=(0.25, 0.5),
        background_tint=0.1,
        brightness=(0.6, 1.0),
        noise=0.03,
    ),
    "road_signs": Style(
        rotation=8.0, scale=(0.8, 1.0), background=(0.3, 0.7), background_tint=0.35, gradient=0.5, colour_jitter=0.10
    ),
    "quilts": Style(rotation=45.0, background_tint=0.3, second_tone=0.5, colour_jitter=0.10, noise=0.15),
    "shop_windows": Style(background=(0.2, 0.6), brightness=(1.1, 1.5), clutter=6),
    "aerial_views": Style(rotation=180.0, scale=(0.4, 0.6), background=(0.2, 0.6), background_tint=0.2, clutter=3),
}


def class_name(texture: str, colour: str, shape: str) -> str:
    """The English name of a class, for example `striped red star`."""
    return f"{texture} {colour} {shape}"


def all_class_names() -> tuple[str, ...]:
    """All 500 class names in a fixed shuffled order that no seed changes.

    The first 100 are the classes of the embedded sequences, the next 20 the held-out zero-shot classes; the embedded
    backbone was pre-trained on the remaining 380 only.
    """
    names = [class_name(*attributes) for attributes in product(TEXTURES, COLOURS, SHAPES)]
    order = np.argsort(np.random.Generator(np.random.PCG64(20230308)).random(len(names)))
    return tuple(names[i] for i in order)


SEQUENCE_CLASSES = slice(0, 100)
HELD_OUT_CLASSES = slice(100, 120)
PRETRAINING_CLASSES = slice(120, 500)


@dataclass(frozen=True)
class Place:
    """Where objects are: arrays (n, 1, 1); x and y in [-1, 1] with y upwards, sizes relative to half the picture."""

    scale: Array
    angle: Array
    x: Array
    y: Array


def drawer(stream: np.random.Generator, count: int) -> Draw:
    """Uniform draws (count, *shape) of a stream, the only randomness of pictures."""
    return lambda *shape: stream.random((count, *shape), dtype=np.float32)


def canvas() -> tuple[Array, Array]:
    """Coordinates x and y of every point that is drawn, finer than pixels by `SUPERSAMPLE`."""
    axis = (np.arange(SIZE * SUPERSAMPLE, dtype=np.float32) + 0.5) / (SIZE * SUPERSAMPLE) * 2 - 1
    x, y = np.meshgrid(axis, -axis)
    return x, y


def background(draw: Draw, style: Style, grid: tuple[Array, Array]) -> Array:
    """Backgrounds (n, S, S, 3): a flat tone, a tint, a linear gradient, thin random lines."""
    x, y = grid
    low, high = style.background
    tone = low + (high - low) * draw(1, 1, 1) + style.background_tint * (2 * draw(1, 1, 3) - 1)
    angle = 2 * math.pi * draw(1, 1, 1)
    slope = style.gradient * draw(1, 1, 3)
    picture = tone + slope * (x[None, ..., None] * np.cos(angle) + y[None, ..., None] * np.sin(angle))
    for _ in range(style.clutter):
        angle, offset = math.pi * draw(1, 1), 2 * draw(1, 1) - 1
        colour = draw(1, 1, 3)
        line = np.abs(x[None] * np.cos(angle) + y[None] * np.sin(angle) - offset) < 0.05
        picture = np.where(line[..., None], 0.5 * picture + 0.5 * colour, picture)
    return picture


def paint(
    picture: Array, name: str, place: Place, draw: Draw, style: Style, grid: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The pictures with an object of class `name` over them, and where it is (n, S, S), true inside."""
    texture, colour, shape = name.split()
    shifted_x, shifted_y = (grid[0][None] - place.x) / place.scale, (grid[1][None] - place.y) / place.scale
    u = shifted_x * np.cos(place.angle) + shifted_y * np.sin(place.angle)
    v = shifted_y * np.cos(place.angle) - shifted_x * np.sin(place.angle)
    gauge = SHAPES[shape](u, v)
    pattern = TEXTURES[texture](u, v, gauge)[..., None]
    tone = np.asarray(COLOURS[colour], np.float32) + style.colour_jitter * (2 * draw(1, 1, 3) - 1)
    second = 0.3 * tone + 0.7 * style.second_tone
    inside = gauge < 1
    return np.where(inside[..., None], tone * (1 - pattern) + second * pattern, picture), inside


def brightness(draw: Draw, style: Style) -> Array:
    """Factors (n, 1, 1, 1) of all tones of a picture."""
    low, high = style.brightness
    return low + (high - low) * draw(1, 1, 1)


def shrink(picture: Array) -> Array:
    """(n, 32, 32, ...) means of the points (n, S, S, ...) of every pixel."""
    count, _, _, *channels = picture.shape
    return picture.reshape(count, SIZE, SUPERSAMPLE, SIZE, SUPERSAMPLE, *channels).mean((2, 4))


def develop(picture: Array, draw: Draw, style: Style) -> NDArray[np.uint8]:
    """Finished pictures (n, 32, 32, 3), RGB, with noise."""
    noisy = shrink(picture) + style.noise * 3.46 * (draw(SIZE, SIZE, 3) - 0.5)
    return (np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)


def render(name: str, count: int, *, seed: int, split: int, style: Style) -> NDArray[np.uint8]:
    """Pictures of one class.

    Args:
        name: a class name as given by `class_name`.
        count: how many pictures; picture i is the same whatever the count is not, so ask for one count per split.
        seed: seed of the whole data set.
        split: 0 for training, 1 for test; keeps the two apart.
        style: how to draw.

    Returns:
        (count, 32, 32, 3) uint8, RGB.
    """
    index = all_class_names().index(name)
    draw = drawer(np.random.Generator(np.random.PCG64([VERSION, seed, split, index])), count)
    grid = canvas()
    picture = background(draw, style, grid)
    low, high = style.scale
    scale = low + (high - low) * draw(1, 1)
    angle = math.radians(style.rotation) * (2 * draw(1, 1) - 1)
    place = Place(scale, angle, (1 - scale) * (2 * draw(1, 1) - 1), (1 - scale) * (2 * draw(1, 1) - 1))
    picture, _ = paint(picture, name, place, draw, style, grid)
    return develop(picture * brightness(draw, style), draw, style)
