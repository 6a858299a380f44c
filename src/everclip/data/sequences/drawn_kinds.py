"""The embedded sequences of other kinds than labelled pictures: captioned scenes, clips, masks, ordered pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everclip.data.captions.samples import CaptionedData
from everclip.data.drawing import clips, discs, scenes, shapes
from everclip.data.drawing.clips import CLIP_CLASSES
from everclip.data.images import ArrayImages
from everclip.data.masks import MaskedImages
from everclip.data.ordered import OrderedImages
from everclip.data.pairs import CaptionedImages
from everclip.data.sequences import retrieval
from everclip.data.video.arrays import ArrayClips
from everclip.digest import json_sha256
from everclip.errors import ConfigError
from everclip.evaluation.classification import Classification
from everclip.evaluation.ordering import Ordering
from everclip.evaluation.rescoring import PairScorer
from everclip.evaluation.segmentation import Segmentation
from everclip.objectives.classification import Classification as LabelObjective
from everclip.objectives.ordering import Ordering as OrderObjective
from everclip.objectives.segmentation import Segmentation as MaskObjective
from everclip.storage import write_npy
from everclip.types import NO_CLASS, ClassSet, Positive, Session, Task, TaskSequence, Templates

TRAIN, TEST = 0, 1  # splits


def retrieval_shapes(
    *,
    name: str,
    domains: Sequence[str],
    train_scenes: Positive,
    test_scenes: Positive,
    scorer: PairScorer | None = None,
    seed: int = 0,
    stored: bool = False,
) -> TaskSequence:
    """Drawn scenes with five captions each, one session per rendering style; all domains evaluated after each.

    Args:
        name: of the sequence.
        domains: keys of `everclip.data.drawing.shapes.STYLES`, in order of their sessions.
        train_scenes: per domain.
        test_scenes: per domain; also the number of pictures that a caption is compared with.
        scorer: see `Retrieval`.
        seed: of the scenes.
        stored: see `Retrieval`.

    Raises:
        ConfigError: an unknown domain, or one twice; more scenes than captions could tell apart.
    """
    _check_members("sequence.domains", domains, shapes.STYLES)
    counts = {"train_scenes": train_scenes, "test_scenes": test_scenes}
    drawn = [
        scenes_dataset(name=domain, style=domain, **counts, described=scorer is not None, seed=seed)
        for domain in domains
    ]
    return retrieval.domains(name=name, domains=drawn, scorer=scorer, stored=stored)


def scenes_dataset(
    *, name: str, style: str, train_scenes: Positive, test_scenes: Positive, described: bool = False, seed: int = 0
) -> CaptionedData:
    """Drawn scenes with five captions each.

    Args:
        name: of the data set.
        style: rendering style, a key of `everclip.data.drawing.shapes.STYLES`.
        train_scenes: drawn for training.
        test_scenes: drawn for testing.
        described: whether they come with their parts, see `CaptionedImages`.
        seed: of the scenes.

    Raises:
        ConfigError: an unknown style; more scenes than captions could tell apart.
    """
    _check_members("sequence.style", [style], shapes.STYLES)
    count = len(shapes.all_class_names()[shapes.SEQUENCE_CLASSES])
    pairs = count * (count - 1) // 2
    if max(train_scenes, test_scenes) > pairs:
        raise ConfigError(
            f"sequence.train_scenes={train_scenes} sequence.test_scenes={test_scenes}: there are {pairs} pairs of "
            "classes, and captions could not tell more scenes apart"
        )
    train, test = (
        _captioned(count, seed=seed, split=split, style=style, described=described)
        for split, count in ((TRAIN, train_scenes), (TEST, test_scenes))
    )
    return CaptionedData(name, train, test)


def _captioned(count: int, *, seed: int, split: int, style: str, described: bool) -> CaptionedImages:
    drawn = scenes.draw_scenes(count, seed=seed, split=split, style=style)
    identity = json_sha256([scenes.VERSION, shapes.VERSION, count, seed, split, repr(shapes.STYLES[style])])
    pictures = ArrayImages(drawn.pixels, np.full(count, NO_CLASS, np.int64), identity)
    return CaptionedImages(pictures, scenes.captions(drawn), scenes.described(drawn) if described else None)


def clip_shapes(
    *,
    name: str,
    kinds: Sequence[str],
    train_per_class: Positive,
    test_per_class: Positive,
    cache_dir: str,
    frames: Positive = clips.FRAMES,
    style: str = "scenes",
    templates: Templates = ("a photo of a {}.",),
    seed: int = 0,
) -> TaskSequence:
    """Clips of moving shapes, one session per kind of class, each compared with the classes of its own kind.

    Args:
        name: of the sequence.
        kinds: keys of `everclip.data.drawing.clips.CLIP_CLASSES`, in order of their sessions: what tells classes apart
            is `appearance`, `motion` alone (a mean over frames tells next to nothing), or `mixed`.
        train_per_class: clips drawn per class.
        test_per_class: clips drawn per class.
        cache_dir: where drawn clips are kept.
        frames: of a clip.
        style: rendering style, a key of `everclip.data.drawing.shapes.STYLES`.
        templates: of the prompts.
        seed: of the clips.

    Raises:
        ConfigError: an unknown kind or style, or a kind twice.
    """
    _check_members("sequence.kinds", kinds, CLIP_CLASSES)
    _check_members("sequence.style", [style], shapes.STYLES)
    sessions: list[Session] = []
    tasks = []
    for index, kind in enumerate(kinds):
        names = CLIP_CLASSES[kind]
        first = sum(len(earlier.new) for earlier in sessions)
        new = ClassSet(tuple(range(first, first + len(names))), names, tuple(templates))
        train, test = (
            _clips(new, count, seed=seed, split=split, style=style, frames=frames, cache=Path(cache_dir))
            for split, count in ((TRAIN, train_per_class), (TEST, test_per_class))
        )
        seen = ClassSet.union([*(earlier.new for earlier in sessions), new])
        sessions.append(Session(index, kind, new, seen, train, objective=LabelObjective()))
        tasks.append(Task(kind, new, test, Classification("task"), index))
    return TaskSequence(name, tuple(sessions), tuple(tasks), "multi_domain", evaluate="all")


def _clips(classes: ClassSet, count: int, *, seed: int, split: int, style: str, frames: int, cache: Path) -> ArrayClips:
    """`count` clips of each class."""
    versions = [clips.VERSION, shapes.VERSION]
    identity = json_sha256([versions, classes.names, count, seed, split, repr(shapes.STYLES[style]), frames])

    def draw() -> NDArray[np.uint8]:
        drawn = (clips.draw_clips(n, count, seed=seed, split=split, style=style, frames=frames) for n in classes.names)
        return np.concatenate(list(drawn))

    return ArrayClips(_kept(cache / "clips" / f"{identity[:16]}.npy", draw), np.repeat(classes.ids, count), identity)


def _kept(path: Path, draw: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What is drawn, from the cache if it was drawn before."""
    if not path.is_file():
        write_npy(path, draw())
    kept: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return kept


def dense_shapes(
    *,
    name: str,
    num_sessions: Positive,
    way: Positive,
    train_scenes: Positive,
    test_scenes: Positive,
    style: str = "cards",
    templates: Templates = ("a photo of a {}.",),
    seed: int = 0,
) -> TaskSequence:
    """Drawn scenes of two shapes with masks; every session has classes of its own, pixels are compared with all seen.

    Args:
        name: of the sequence.
        num_sessions: how many.
        way: classes of each, at least two.
        train_scenes: per session.
        test_scenes: per session.
        style: rendering style, a key of `everclip.data.drawing.shapes.STYLES`.
        templates: of the prompts.
        seed: of the scenes.

    Raises:
        ConfigError: an unknown style, a single class per session, or more classes than there are.
    """
    _check_members("sequence.style", [style], shapes.STYLES)
    names = shapes.all_class_names()[shapes.SEQUENCE_CLASSES]
    if way < 2 or num_sessions * way > len(names):
        raise ConfigError(
            f"sequence.num_sessions={num_sessions} sequence.way={way}: a scene shows two classes, and there are "
            f"{len(names)} in all"
        )
    everything = ClassSet(tuple(range(num_sessions * way)), names[: num_sessions * way], tuple(templates))
    sessions, tasks = [], []
    for index in range(num_sessions):
        new, seen = (
            everything.select(range(index * way, (index + 1) * way)),
            everything.select(range((index + 1) * way)),
        )
        train, test = (
            _masked(new, count, seed=seed, split=split, style=style)
            for split, count in ((TRAIN, train_scenes), (TEST, test_scenes))
        )
        title = "base" if index == 0 else f"session_{index:02d}"
        sessions.append(Session(index, title, new, seen, train, objective=MaskObjective()))
        tasks.append(Task(title, new, test, Segmentation(), index))
    return TaskSequence(name, tuple(sessions), tuple(tasks), "dense")


def _masked(classes: ClassSet, count: int, *, seed: int, split: int, style: str) -> MaskedImages:
    drawn = scenes.draw_scenes(count, seed=seed, split=split, style=style, classes=classes.names)
    versions = [scenes.VERSION, shapes.VERSION]
    identity = json_sha256([versions, classes.names, count, seed, split, repr(shapes.STYLES[style])])
    ids = np.array([NO_CLASS, *classes.ids], dtype=np.int64)
    masks = ids[scenes.class_masks(drawn, classes.names)]
    return MaskedImages(ArrayImages(drawn.pixels, np.full(count, NO_CLASS, np.int64), identity), masks)


def ordering_shapes(
    *,
    name: str,
    attributes: Sequence[str],
    train_pictures: Positive,
    test_pictures: Positive,
    templates: Templates = ("rank the pictures by {}.",),
    seed: int = 0,
) -> TaskSequence:
    """Drawn discs to be ordered by one attribute per session, whatever the others are; all evaluated after each.

    Args:
        name: of the sequence.
        attributes: keys of `everclip.data.drawing.discs.ATTRIBUTES`, in order of their sessions.
        train_pictures: per attribute.
        test_pictures: per attribute.
        templates: of the texts that pictures are ordered by.
        seed: of the pictures.

    Raises:
        ConfigError: an unknown attribute, or one twice.
    """
    _check_members("sequence.attributes", attributes, discs.ATTRIBUTES)
    everything = ClassSet(
        tuple(range(len(attributes))), tuple(discs.ATTRIBUTES[key] for key in attributes), tuple(templates)
    )
    sessions, tasks = [], []
    for index, attribute in enumerate(attributes):
        new, seen = everything.select([index]), everything.select(range(index + 1))
        train, test = (
            _ordered(attribute, index, count, seed=seed, split=split)
            for split, count in ((TRAIN, train_pictures), (TEST, test_pictures))
        )
        sessions.append(Session(index, attribute, new, seen, train, objective=OrderObjective()))
        tasks.append(Task(attribute, new, test, Ordering(), index))
    return TaskSequence(name, tuple(sessions), tuple(tasks), "ordering", evaluate="all")


def _ordered(attribute: str, label: int, count: int, *, seed: int, split: int) -> OrderedImages:
    drawn = discs.draw_discs(count, seed=seed, split=split, name=attribute)
    identity = json_sha256([discs.VERSION, shapes.VERSION, attribute, count, seed, split])
    return OrderedImages(ArrayImages(drawn.pixels, np.full(count, label), identity), drawn.values[attribute])


def _check_members(key: str, given: Sequence[str], known: Iterable[str]) -> None:
    """Compares names with those there are.

    Raises:
        ConfigError: an unknown one, one twice, or none.
    """
    if not given or set(given) - set(known) or len(set(given)) < len(given):
        shown = given[0] if len(given) == 1 else list(given)
        raise ConfigError(f"{key}={shown}: must be one or more of {', '.join(known)}, each once")
