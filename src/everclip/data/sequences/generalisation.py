"""Trained on one data set, judged by others too: of other classes, or of the same classes in other domains.

Source: arXiv 2203.05557, sections 4.2 (cross-dataset transfer) and 4.3 (domain generalisation); official code
KaiyangZhou/CoOp @ ff61507 (`datasets/imagenet_a.py` and its like: a target has its own classes alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from everclip.data.datasets.base import LabelledImages
from everclip.data.images import Relabelled
from everclip.data.sequences.few_pictures import Few, FewDraw, Validation, few_pictures
from everclip.data.sequences.multi_domain import check_titles
from everclip.errors import ConfigError
from everclip.evaluation.classification import Classification
from everclip.objectives.classification import Classification as LabelObjective
from everclip.types import ClassSet, Positive, Session, Task, TaskSequence, Templates


def cross_dataset(
    *,
    name: str,
    source: LabelledImages,
    targets: Sequence[LabelledImages],
    shots: Positive | None = 16,
    draw: FewDraw = "coop",
    validation: Validation = "none",
    templates: Templates | None = None,
    seed: int = 1,
) -> TaskSequence:
    """All classes of one data set in one session; tested on it and on others, each among its own classes.

    Args:
        name: of the sequence.
        source: with its official split.
        targets: tested on. Their classes are classes of their own, even where one is called as one of the source is.
        shots: training pictures per class, None for all; a class with fewer gives all it has.
        draw: see `few_pictures`.
        validation: see `few_pictures`.
        templates: of the prompts of all data sets, None for each data set's own.
        seed: of the choice of shots.

    Raises:
        ConfigError: two data sets of one name.
    """
    classes = source.classes(templates)
    found: list[tuple[ClassSet, LabelledImages]] = []
    for target in targets:
        first = len(source.names) + sum(len(own) for own, _ in found)
        own = replace(target.classes(templates), ids=tuple(range(first, first + len(target.names))))
        found.append((own, target))
    return _judged(name, source, classes, found, few_pictures(source, shots, seed, draw, validation))


def domain_generalisation(
    *,
    name: str,
    source: LabelledImages,
    targets: Sequence[LabelledImages],
    shots: Positive | None = 16,
    draw: FewDraw = "coop",
    validation: Validation = "none",
    templates: Templates | None = None,
    seed: int = 1,
) -> TaskSequence:
    """All classes of one data set in one session; tested on it and on the same classes, or some of them, elsewhere.

    Args:
        name: of the sequence.
        source: with its official split.
        targets: tested on, each among the classes that it has; a class is the one of its name in the source. Their
            prompts have the templates of the source.
        shots: training pictures per class, None for all; a class with fewer gives all it has.
        draw: see `few_pictures`.
        validation: see `few_pictures`.
        templates: of the prompts, None for those of the source.
        seed: of the choice of shots.

    Raises:
        ConfigError: two data sets of one name, or a target with a class that the source does not have.
    """
    classes = source.classes(templates)
    found = []
    for target in targets:
        own = classes.adopt(target.classes(classes.templates))
        if strange := [name for class_id, name in zip(own.ids, own.names, strict=True) if class_id not in classes.ids]:
            raise ConfigError(f"{target.name} has the class {strange[0]!r}, which {source.name} does not have")
        found.append((own, target))
    return _judged(name, source, classes, found, few_pictures(source, shots, seed, draw, validation))


def _judged(
    name: str,
    source: LabelledImages,
    classes: ClassSet,
    targets: Sequence[tuple[ClassSet, LabelledImages]],
    few: Few,
) -> TaskSequence:
    """A session of the source's classes, judged by its test pictures and by those of each target under other ids."""
    check_titles([source, *(target for _, target in targets)])
    session = Session(
        0, source.name, classes, classes, few.train, objective=LabelObjective(), validation=few.validation
    )
    tasks = [Task(source.name, classes, source.test, Classification("task"), 0)]
    for own, target in targets:
        tasks.append(Task(target.name, own, Relabelled(target.test, own.ids), Classification("task")))
    return TaskSequence(name, (session,), tuple(tasks), "generalisation", evaluate="all")
