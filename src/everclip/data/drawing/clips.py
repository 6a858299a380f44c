"""Procedural clips: 32x32 pictures of one named shape that moves, grows or shrinks.

A class says what is seen ("striped red star"), what happens ("shape moving left"), or both ("red star moving left");
what it leaves open is random. The position and size of the object in one frame have the same distribution whatever
happens, and the clips of a motion are those of the opposite motion played backwards: a single frame tells nothing of
the motion, and the mean over all frames nothing that tells opposites apart.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everclip.data.drawing import shapes
from everclip.data.drawing.shapes import COLOURS, SHAPES, STYLES, TEXTURES, Place

VERSION = 1  # raise when the same arguments give other clips
FRAMES = 8
SCALE = (0.45, 0.9)

# The coordinate that a motion changes and whether it falls; opposites follow each other.
MOTIONS: dict[str, tuple[str, bool]] = {
    "moving right": ("x", False),
    "moving left": ("x", True),
    "moving up": ("y", False),
    "moving down": ("y", True),
    "growing": ("scale", False),
    "shrinking": ("scale", True),
}
ANY = "shape"  # stands for an object of any shape

_LOOKS = ("red star", "blue circle", "green heart", "yellow cross", "purple ring", "orange square")

# Classes of the three kinds. Of each look in the mixed kind there are two opposite motions.
CLIP_CLASSES: dict[str, tuple[str, ...]] = {
    "appearance": shapes.all_class_names()[shapes.SEQUENCE_CLASSES][:12],
    "motion": tuple(f"{ANY} {motion}" for motion in MOTIONS),
    "mixed": tuple(f"{_LOOKS[i // 2]} {motion}" for i, motion in enumerate([*MOTIONS] * 2)),
}


def draw_clips(name: str, count: int, *, seed: int, split: int, style: str, frames: int = FRAMES) -> NDArray[np.uint8]:
    """Clips of one class.

    Args:
        name: any of texture, colour and shape, a shape or `ANY` being needed, then a motion or none.
        count: how many; clip i is the same whatever the count is.
        seed: seed of the whole data set.
        split: 0 for training, 1 for test; keeps the two apart.
        style: how to draw, a key of `shapes.STYLES`.
        frames: length of a clip.

    Returns:
        (count, frames, 32, 32, 3) uint8, RGB.

    Raises:
        ValueError: a name of other words or in another order.
    """
    look, motion = _parse(name)
    coordinate, falls = MOTIONS[motion] if motion else ("", False)
    key = [VERSION, seed, split, *f"{style} {' '.join(look)} {coordinate}".encode()]
    clips = [_draw_clip(look, coordinate, [*key, i], STYLES[style], frames) for i in range(count)]
    return np.stack([clip[::-1] if falls else clip for clip in clips])


def _parse(name: str) -> tuple[list[str], str | None]:
    """The words of the look and the motion, if the name has one."""
    motion = next((motion for motion in MOTIONS if name.endswith(f" {motion}")), None)
    look = name.removesuffix(f" {motion}").split()
    kinds = (set(TEXTURES), set(COLOURS), {*SHAPES, ANY})
    order = [next((number for number, kind in enumerate(kinds) if word in kind), -1) for word in look]
    if -1 in order or order != sorted(set(order)) or order[-1:] != [2]:
        raise ValueError(
            f"{name!r} is no class of clips; write [texture] [colour] shape [motion], with the words of TEXTURES, "
            f"COLOURS, SHAPES or {ANY!r}, and MOTIONS"
        )
    return look, motion


def _draw_clip(look: list[str], coordinate: str, key: list[int], style: shapes.Style, frames: int) -> NDArray[np.uint8]:
    """One clip (frames, 32, 32, 3) in which `coordinate` rises; without one, any motion."""
    stream = np.random.Generator(np.random.PCG64(key))
    draw, grid = shapes.drawer(stream, 1), shapes.canvas()
    name = " ".join(
        next((word for word in look if word in kind), None) or list(kind)[int(len(kind) * draw().item())]
        for kind in (TEXTURES, COLOURS, SHAPES)
    )
    any_coordinate, any_falls = list(MOTIONS.values())[int(len(MOTIONS) * draw().item())]
    coordinate, falls = (coordinate, False) if coordinate else (any_coordinate, any_falls)
    place = _path(coordinate, draw, style, frames)
    picture = np.repeat(shapes.background(draw, style, grid), frames, axis=0)
    picture, _ = shapes.paint(picture, name, place, draw, style, grid)
    clip = shapes.develop(picture * shapes.brightness(draw, style), shapes.drawer(stream, frames), style)
    return clip[::-1] if falls else clip


def _path(coordinate: str, draw: shapes.Draw, style: shapes.Style, frames: int) -> Place:
    """Where the object is in every frame: `coordinate` rises from end to end, the others stay where they are.

    A coordinate in a random frame is uniform over its range whether it moves or not.
    """
    time = np.arange(frames, dtype=np.float32)[:, None, None]
    shares = {}
    for one in ("x", "y", "scale"):
        share = draw(1, 1)
        shares[one] = (time + share) / frames if one == coordinate else np.broadcast_to(share, time.shape)
    scale = SCALE[0] + (SCALE[1] - SCALE[0]) * shares["scale"]
    angle = math.radians(style.rotation) * (2 * draw(1, 1) - 1)
    return Place(scale, angle, (1 - scale) * (2 * shares["x"] - 1), (1 - scale) * (2 * shares["y"] - 1))
