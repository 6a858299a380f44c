"""The embedded sequences: procedural pictures of named shapes, drawn once and cached."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from everclip.data.datasets.base import LabelledImages
from everclip.data.drawing import shapes
from everclip.data.images import ArrayImages
from everclip.data.sequences import class_incremental, domain_incremental, multi_domain
from everclip.data.sequences.class_incremental import Protocol
from everclip.data.sequences.orders import ClassOrder
from everclip.data.sequences.shots import Unlabelled
from everclip.digest import json_sha256
from everclip.errors import ConfigError
from everclip.evaluation.classification import Classification
from everclip.storage import write_npy
from everclip.types import ClassSet, Positive, Task, TaskSequence, Templates

Count = Annotated[int, Field(ge=0)]
HELD_OUT_TEST = 10
DOMAIN_CLASSES = 10

# Each domain of `multi_domain_shapes` has shapes, a rendering style of the same name, and templates of its own.
DOMAINS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "playing_cards": (("heart", "diamond"), ("a picture of a {}.", "a card with a {}.")),
    "night_sky": (("star", "crescent"), ("a photo of a {}.", "a {} at night.")),
    "road_signs": (("triangle", "hexagon"), ("this is a {}.",)),
    "quilts": (("square",), ("{}.",)),
    "shop_windows": (("cross",), ("a {}.",)),
    "aerial_views": (("circle", "ring"), ("a drawing of a {}.", "a {} from above.")),
}


def shapes_dataset(
    *,
    cache_dir: str,
    train_per_class: Count = 20,
    test_per_class: Positive = 20,
    num_classes: Positive = 100,
    style: str = "scenes",
    seed: int = 0,
    name: str = "shapes",
    kinds: Sequence[str] | None = None,
    templates: Templates = ("a photo of a {}.",),
    val_per_class: Count = 0,
) -> LabelledImages:
    """The procedural generator as a data set, for protocols that take any.

    Args:
        cache_dir: where drawn pictures are kept.
        train_per_class: training pictures drawn per class, 0 for a data set to test on.
        test_per_class: test pictures drawn per class.
        num_classes: how many of the 100 classes, or of those of these `kinds`, to use: the first ones.
        style: rendering style, a key of `everclip.data.drawing.shapes.STYLES`.
        seed: of the pictures.
        name: of the data set.
        kinds: only classes of these shapes, None for all.
        templates: of the prompts.
        val_per_class: validation pictures drawn per class.

    Raises:
        ConfigError: an unknown style, or more classes than there are.
    """
    if style not in shapes.STYLES:
        raise ConfigError(f"sequence.style={style}: must be one of {', '.join(shapes.STYLES)}")
    every = shapes.all_class_names()[shapes.SEQUENCE_CLASSES]
    names = tuple(n for n in every if kinds is None or n.split()[-1] in kinds)
    if num_classes > len(names):
        raise ConfigError(f"sequence.num_classes={num_classes}: the generator has {len(names)}")
    train, test, val = (
        draw(names[:num_classes], count, seed=seed, split=split, style=style, cache=Path(cache_dir))
        for split, count in enumerate((train_per_class, test_per_class, val_per_class))
    )
    return LabelledImages(name, names[:num_classes], tuple(templates), train, test, val=val if len(val) else None)


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
    class_order: ClassOrder = "identity",
    num_classes: Positive = 100,
    unlabelled: Unlabelled = 0,
    templates: Templates = ("a photo of a {}.",),
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
        style: rendering style, a key of `everclip.data.drawing.shapes.STYLES`.
        class_order: see `orders.resolve`.
        num_classes: how many of the 100 classes to use, the first ones.
        unlabelled: more training pictures per class whose labels are not shown, or the `rest` of them.
        templates: of the prompts.
        seed: of the pictures.

    Raises:
        ConfigError: an unknown style, or a protocol that does not fit 100 classes.
    """
    _check_shots(shots, train_per_class)
    dataset = shapes_dataset(
        cache_dir=cache_dir, train_per_class=train_per_class, test_per_class=test_per_class, num_classes=num_classes,
        style=style, seed=seed,
    )  # fmt: skip
    held_out = _held_out(templates, seed=seed, style=style, cache=Path(cache_dir))
    protocol = Protocol(base_classes, way, shots, class_order=class_order, seed=seed, unlabelled=unlabelled)
    return class_incremental.build(name, protocol, dataset.train, dataset.test, dataset.names, templates, held_out)


def multi_domain_shapes(
    *,
    name: str,
    domains: Sequence[str],
    shots: Positive | None,
    train_per_class: Positive,
    test_per_class: Positive,
    cache_dir: str,
    num_classes: Positive = DOMAIN_CLASSES,
    candidates: multi_domain.Candidates = "domain",
    seed: int = 0,
) -> TaskSequence:
    """Domains of the procedural generator that share neither classes nor style, one session each.

    Args:
        name: of the sequence.
        domains: keys of `DOMAINS`, in order of their sessions.
        shots: training pictures per class, None for all `train_per_class`.
        train_per_class: training pictures drawn per class.
        test_per_class: test pictures drawn per class.
        cache_dir: where drawn pictures are kept.
        num_classes: classes per domain.
        candidates: see `multi_domain.build`.
        seed: of the pictures.

    Raises:
        ConfigError: an unknown domain, or one twice; more classes or shots than there are.
    """
    if set(domains) - set(DOMAINS):
        raise ConfigError(f"sequence.domains={list(domains)}: must be some of {', '.join(DOMAINS)}")
    if num_classes > DOMAIN_CLASSES:
        raise ConfigError(f"sequence.num_classes={num_classes}: a domain has {DOMAIN_CLASSES}")
    _check_shots(shots, train_per_class)
    drawn = [
        shapes_dataset(
            cache_dir=cache_dir, train_per_class=train_per_class, test_per_class=test_per_class, seed=seed, name=domain,
            num_classes=num_classes, style=domain, kinds=DOMAINS[domain][0], templates=DOMAINS[domain][1],
        )
        for domain in domains
    ]  # fmt: skip
    held_out = _held_out(("a photo of a {}.",), seed=seed, style="scenes", cache=Path(cache_dir))
    return multi_domain.build(name, drawn, shots=shots, candidates=candidates, seed=seed, held_out=held_out)


def domain_incremental_shapes(
    *,
    name: str,
    styles: Sequence[str],
    num_classes: Positive,
    shots: Positive | None,
    train_per_class: Positive,
    test_per_class: Positive,
    cache_dir: str,
    candidates: multi_domain.Candidates = "union",
    seed: int = 0,
) -> TaskSequence:
    """The same classes of the procedural generator in one rendering style after the other.

    Args:
        name: of the sequence.
        styles: keys of `everclip.data.drawing.shapes.STYLES`, in order of their sessions.
        num_classes: how many of the 100 classes to use, evenly spread.
        shots: training pictures per class and style, None for all `train_per_class`.
        train_per_class: training pictures drawn per class and style.
        test_per_class: test pictures drawn per class and style.
        cache_dir: where drawn pictures are kept.
        candidates: see `domain_incremental.build`.
        seed: of the pictures.

    Raises:
        ConfigError: an unknown style, or one twice; more classes or shots than there are.
    """
    if set(styles) - set(shapes.STYLES):
        raise ConfigError(f"sequence.styles={list(styles)}: must be some of {', '.join(shapes.STYLES)}")
    if num_classes > 100:
        raise ConfigError(f"sequence.num_classes={num_classes}: the generator has 100")
    _check_shots(shots, train_per_class)
    cache, every = Path(cache_dir), shapes.all_class_names()[shapes.SEQUENCE_CLASSES]
    names = tuple(every[i * 100 // num_classes] for i in range(num_classes))
    drawn = []
    for style in styles:
        train, test = (
            draw(names, count, seed=seed, split=split, style=style, cache=cache)
            for split, count in enumerate((train_per_class, test_per_class))
        )
        drawn.append(LabelledImages(style, names, ("a photo of a {}.",), train, test))
    held_out = _held_out(("a photo of a {}.",), seed=seed, style="scenes", cache=cache)
    return domain_incremental.build(name, drawn, shots=shots, candidates=candidates, seed=seed, held_out=held_out)


def _check_shots(shots: int | None, train_per_class: int) -> None:
    if shots is not None and shots > train_per_class:
        raise ConfigError(f"sequence.shots={shots} exceeds sequence.train_per_class={train_per_class}")


def _held_out(templates: Sequence[str], *, seed: int, style: str, cache: Path) -> Task:
    """The classes that no embedded sequence trains on; their ids follow those of all 100 that may be."""
    part = shapes.HELD_OUT_CLASSES
    names = shapes.all_class_names()[part]
    classes = ClassSet(tuple(range(part.start, part.stop)), names, tuple(templates))
    images = draw(names, HELD_OUT_TEST, seed=seed, split=1, style=style, cache=cache, first=part.start)
    return Task("held_out", classes, images, Classification("task"))


def draw(
    names: Sequence[str], count: int, *, seed: int, split: int, style: str, cache: Path, first: int = 0
) -> ArrayImages:
    """`count` pictures of each class, from the cache if they were drawn before; labels count from `first`."""
    identity = json_sha256([shapes.VERSION, list(names), count, seed, split, repr(shapes.STYLES[style])])
    labels = np.repeat(np.arange(first, first + len(names)), count)
    if not count:
        return ArrayImages(np.empty((0, shapes.SIZE, shapes.SIZE, 3), np.uint8), labels, identity)
    path = cache / "shapes" / f"{identity[:16]}.npy"
    if path.is_file():
        return ArrayImages(np.load(path, mmap_mode="r"), labels, identity)

    def render(name: str) -> np.ndarray:
        return shapes.render(name, count, seed=seed, split=split, style=shapes.STYLES[style])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = np.concatenate(list(pool.map(render, names)))
    write_npy(path, pixels)
    return ArrayImages(pixels, labels, identity)
