"""The embedded sequences: procedural pictures of named shapes, drawn once and cached."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from everclip.data import shapes
from everclip.data.images import ArrayImages
from everclip.data.sequences import class_incremental
from everclip.data.sequences.class_incremental import Protocol
from everclip.digest import json_sha256
from everclip.errors import ConfigError
from everclip.storage import write_npy
from everclip.types import ClassSet, Positive, Task, TaskSequence, Template

HELD_OUT_TEST = 10


def class_incremental_shapes(
    *,
    name: str,
    base_classes: Positive,
    way: Positive,
    shots: Positive | None,
    train_per_class: Positive,
    test_per_class: Positive,
    cache_dir: str,
    style: str = "scenes",
    class_order: str = "identity",
    num_classes: Positive = 100,
    templates: Sequence[Template] = ("a photo of a {}.",),
    seed: int = 0,
) -> TaskSequence:
    """Up to 100 classes of the procedural generator under a class-incremental protocol.

    Args:
        name: of the sequence.
        base_classes: classes of session 0.
        way: new classes per later session.
        shots: training pictures per class from session 1 on, None for all `train_per_class`.
        train_per_class: training pictures drawn per class.
        test_per_class: test pictures drawn per class.
        cache_dir: where drawn pictures are kept.
        style: rendering style, a key of `everclip.data.shapes.STYLES`.
        class_order: see `Protocol`.
        num_classes: how many of the 100 classes to use, the first ones.
        templates: of the prompts.
        seed: of the pictures.

    Raises:
        ConfigError: an unknown style, or a protocol that does not fit 100 classes.
    """
    if style not in shapes.STYLES:
        raise ConfigError(f"sequence.style={style}: must be one of {', '.join(shapes.STYLES)}")
    if num_classes > 100:
        raise ConfigError(f"sequence.num_classes={num_classes}: the generator has 100")
    if shots is not None and shots > train_per_class:
        raise ConfigError(f"sequence.shots={shots} exceeds sequence.train_per_class={train_per_class}")
    protocol = Protocol(base_classes, way, shots, class_order=class_order, seed=seed)
    cache = Path(cache_dir)
    names = shapes.all_class_names()[shapes.SEQUENCE_CLASSES][:num_classes]
    held_out_names = shapes.all_class_names()[shapes.HELD_OUT_CLASSES]
    first = shapes.HELD_OUT_CLASSES.start
    held_out = Task(
        "held_out",
        ClassSet(tuple(range(first, first + len(held_out_names))), held_out_names, tuple(templates)),
        _draw(held_out_names, HELD_OUT_TEST, seed=seed, split=1, style=style, cache=cache, first=first),
    )
    train = _draw(names, train_per_class, seed=seed, split=0, style=style, cache=cache)
    test = _draw(names, test_per_class, seed=seed, split=1, style=style, cache=cache)
    return class_incremental.build(name, protocol, train, test, names, templates, held_out)


def _draw(
    names: Sequence[str], count: int, *, seed: int, split: int, style: str, cache: Path, first: int = 0
) -> ArrayImages:
    """`count` pictures of each class, from the cache if they were drawn before; labels count from `first`."""
    identity = json_sha256([shapes.VERSION, list(names), count, seed, split, repr(shapes.STYLES[style])])
    labels = np.repeat(np.arange(first, first + len(names)), count)
    path = cache / "shapes" / f"{identity[:16]}.npy"
    if path.is_file():
        return ArrayImages(np.load(path, mmap_mode="r"), labels, identity)

    def render(name: str) -> np.ndarray:
        return shapes.render(name, count, seed=seed, split=split, style=shapes.STYLES[style])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = np.concatenate(list(pool.map(render, names)))
    write_npy(path, pixels)
    return ArrayImages(pixels, labels, identity)
