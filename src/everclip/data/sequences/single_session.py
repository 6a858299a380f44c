"""One-session sequences of prompt learning: few shots of all classes, or of the first half to judge the second.

Source: arXiv 2109.01134 (few shots), arXiv 2203.05557 (base to novel), official code KaiyangZhou/CoOp @ ff61507.
"""

from __future__ import annotations

from collections.abc import Sequence

from everclip.data.datasets.base import LabelledImages
from everclip.data.sequences.shots import ShotDraw, choose_shots
from everclip.evaluation.classification import Classification
from everclip.objectives.classification import Classification as LabelObjective
from everclip.types import ClassSet, Positive, Session, Task, TaskSequence, Templates


def few_shot(
    *,
    dataset: LabelledImages,
    shots: Positive | None = 16,
    draw: ShotDraw = "coop",
    templates: Templates | None = None,
    seed: int = 1,
) -> TaskSequence:
    """All classes of a data set in one session, `shots` pictures each; tested on all of them.

    Args:
        dataset: with its official split.
        shots: training pictures per class, None for all; a class with fewer gives all it has.
        draw: see `choose_shots`.
        templates: of the prompts, None for the data set's.
        seed: of the choice of shots.
    """
    classes = _classes(dataset, templates)
    train = dataset.train.subset(choose_shots(dataset.train.labels, shots, seed, draw))
    session = Session(0, dataset.name, classes, classes, train, objective=LabelObjective())
    task = Task(dataset.name, classes, dataset.test, Classification(), 0)
    return TaskSequence(f"few_shot_{dataset.name}", (session,), (task,))


def base_to_novel(
    *,
    dataset: LabelledImages,
    shots: Positive | None = 16,
    draw: ShotDraw = "coop",
    templates: Templates | None = None,
    seed: int = 1,
) -> TaskSequence:
    """The first half of the classes in one session; tested on both halves, each among its own classes.

    Args:
        dataset: with its official split. Of an odd number of classes, one more is base than novel.
        shots: training pictures per base class, None for all; a class with fewer gives all it has.
        draw: see `choose_shots`. As in CoOp's code, the choice is made over all classes, then the base classes kept.
        templates: of the prompts, None for the data set's.
        seed: of the choice of shots.
    """
    classes = _classes(dataset, templates)
    half = (len(classes) + 1) // 2
    base, novel = classes.select(range(half)), classes.select(range(half, len(classes)))
    drawn = dataset.train.subset(choose_shots(dataset.train.labels, shots, seed, draw))
    train = drawn.subset(drawn.indices_of(base))
    session = Session(0, "base", base, base, train, objective=LabelObjective())
    tasks = [
        Task(title, part, dataset.test.subset(dataset.test.indices_of(part)), Classification("task"), trained)
        for title, part, trained in (("base", base, 0), ("novel", novel, None))
    ]
    name = f"base_to_novel_{dataset.name}"
    return TaskSequence(name, (session,), tuple(tasks), "base_to_novel", evaluate="all")


def _classes(dataset: LabelledImages, templates: Sequence[str] | None) -> ClassSet:
    return ClassSet(tuple(range(len(dataset.names))), dataset.names, tuple(templates or dataset.templates))
