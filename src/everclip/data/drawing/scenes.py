"""Procedural 32x32 scenes of two named shapes beside each other, with masks and captions.

The classes of a scene's objects follow from its position alone: over every `len(classes)` scenes each class appears
twice, and no two classes meet again before all have met. Everything else comes from a PCG64 stream keyed by
(seed, split, style, position), so a scene depends on nothing but these and the classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everclip.data.drawing import shapes
from everclip.data.drawing.shapes import STYLES, Place
from everclip.types import Described, Parse, Region, Relation

VERSION = 1  # raise when the same arguments give other scenes or captions
CAPTIONS = 5
SCALE = (0.55, 0.6)
DRIFT = 0.5  # share of the free room that an object may be off the line through both

# Where the first object is, seen from the second: a step in (x, y) with y upwards.
RELATIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, 1), "below": (0, -1)}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# How a style's captions speak of a scene; other styles speak as "cards" does.
FRAMES: dict[str, tuple[str, ...]] = {
    "cards": ("a photo of {}.", "a picture of {}.", "a drawing of {}.", "this is {}.", "{}."),
    "night_sky": ("a photo of {} at night.", "{} at night.", "a picture of {}.", "this is {} at night.", "{}."),
    "quilts": ("a drawing of {}.", "a quilt with {}.", "this is {} on a quilt.", "{} on a quilt.", "{}."),
}
PHRASES = (
    "{first} and {second}",
    "{first} {relation} {second}",
    "{second} {opposite} {first}",
    "{second} and {first}",
    "two shapes, {first} {relation} {second}",
)


class SceneObject(NamedTuple):
    """What is where: a class name, and the object's middle in [-1, 1], y upwards."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Scenes:
    """Scenes and what is in them.

    Args:
        pixels: (N, 32, 32, 3) uint8, RGB.
        masks: (N, 32, 32) uint8; 0 background, k the k-th object of the scene.
        objects: the objects of every scene.
        style: how the scenes are drawn, a key of `shapes.STYLES`.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    objects: tuple[tuple[SceneObject, SceneObject], ...]
    style: str


def draw_scenes(count: int, *, seed: int, split: int, style: str, classes: Sequence[str] | None = None) -> Scenes:
    """The first `count` scenes.

    Args:
        count: how many; scene i is the same whatever the count is.
        seed: seed of the whole data set.
        split: 0 for training, 1 for test; keeps the two apart.
        style: how to draw, a key of `shapes.STYLES`.
        classes: the names of which each scene shows two, at least two. None: the 100 of the embedded sequences.
    """
    names = tuple(classes) if classes is not None else shapes.all_class_names()[shapes.SEQUENCE_CLASSES]
    key = [VERSION, seed, split, *style.encode()]
    drawn = [_draw_scene(pair, [*key, i], STYLES[style]) for i, pair in enumerate(_pairs(names, count, key))]
    pixels, masks, objects = zip(*drawn, strict=True)
    return Scenes(np.concatenate(pixels), np.concatenate(masks), objects, style)


def relation(first: SceneObject, second: SceneObject) -> str:
    """Where `first` is, seen from `second`: a key of `RELATIONS`."""
    x, y = first.x - second.x, first.y - second.y
    if abs(x) > abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y > 0 else "below"


def captions(scenes: Scenes) -> tuple[tuple[str, ...], ...]:
    """Five different captions of every scene, in English; the first names the objects alone.

    Raises:
        ValueError: two scenes with the same objects, whose captions might be the same.
    """
    pairs = {frozenset(thing.name for thing in objects) for objects in scenes.objects}
    if len(pairs) < len(scenes.objects):
        raise ValueError(
            f"{len(scenes.objects)} scenes of only {len(pairs)} pairs of classes: captions could not tell them apart; "
            "draw fewer scenes or give more classes"
        )
    frames = FRAMES.get(scenes.style, FRAMES["cards"])
    described = []
    for first, second in scenes.objects:
        seen = relation(first, second)
        names = {"first": _with_article(first.name), "second": _with_article(second.name)}
        words = names | {"relation": seen, "opposite": OPPOSITE[seen]}
        phrases = [phrase.format(**words) for phrase in PHRASES]
        described.append(tuple(frame.format(phrase) for frame, phrase in zip(frames, phrases, strict=True)))
    return tuple(described)


def described(scenes: Scenes) -> Described:
    """Where the objects of every scene are, and what its captions speak of: exact."""
    parses, regions = {}, []
    for (first, second), masks, texts in zip(scenes.objects, scenes.masks, captions(scenes), strict=True):
        regions.append(tuple(_region(thing.name, masks == k) for k, thing in enumerate((first, second), start=1)))
        seen, entities = relation(first, second), {thing.name: thing.name for thing in (first, second)}
        named = Relation(first.name, seen, second.name), Relation(second.name, OPPOSITE[seen], first.name)
        for text in texts:
            parses[text] = Parse(entities, tuple(found for found in named if found.verb in text))
    return Described(tuple(regions), parses)


def _region(name: str, inside: NDArray[np.bool_]) -> Region:
    rows, columns = (np.flatnonzero(inside.any(axis=axis)).tolist() for axis in (1, 0))
    return Region(name, (columns[0], rows[0], columns[-1], rows[-1]))


def class_masks(scenes: Scenes, classes: Sequence[str]) -> NDArray[np.uint8]:
    """(N, 32, 32) the class of every pixel: 0 background, k the k-th of `classes`, counted from 1."""
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    table = np.array([[0, *(numbers[thing.name] for thing in objects)] for objects in scenes.objects], np.uint8)
    return table[np.arange(len(table))[:, None, None], scenes.masks]


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _pairs(names: Sequence[str], count: int, key: list[int]) -> list[tuple[str, str]]:
    """The classes of each scene: round k joins each class with the one k places on, in a shuffled order."""
    order = np.argsort(np.random.Generator(np.random.PCG64(key)).random(len(names)))
    size = len(order)
    steps = [(a, (a + k) % size) for k in range(1, size // 2 + 1) for a in range(size if 2 * k < size else k)]
    return [(names[order[a]], names[order[b]]) for a, b in (steps[i % len(steps)] for i in range(count))]


def _draw_scene(
    pair: tuple[str, str], key: list[int], style: shapes.Style
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[SceneObject, SceneObject]]:
    """The picture (1, 32, 32, 3) and masks (1, 32, 32) of one scene."""
    draw = shapes.drawer(np.random.Generator(np.random.PCG64(key)), 1)
    grid = shapes.canvas()
    picture = shapes.background(draw, style, grid)
    masks = np.zeros((1, shapes.SIZE, shapes.SIZE), np.uint8)
    step = list(RELATIONS.values())[int(len(RELATIONS) * draw().item())]
    objects = []
    for number, (name, side) in enumerate(zip(pair, (1, -1), strict=True), start=1):
        scale = SCALE[0] + (SCALE[1] - SCALE[0]) * draw(1, 1)
        room, drift = 1 - scale, DRIFT * (1 - scale) * (2 * draw(1, 1) - 1)
        x, y = (side * room * way + drift * (1 - abs(way)) for way in step)
        angle = math.radians(style.rotation) * (2 * draw(1, 1) - 1)
        picture, inside = shapes.paint(picture, name, Place(scale, angle, x, y), draw, style, grid)
        masks[shapes.shrink(inside) >= 0.5] = number
        objects.append(SceneObject(name, x.item(), y.item()))
    pixels = shapes.develop(picture * shapes.brightness(draw, style), draw, style)
    return pixels, masks, (objects[0], objects[1])
