"""One-session sequences of prompt learning: few shots of all classes, or of the first half to judge the second.

Beside pictures with labels there may be others whose labels are not shown, or nothing but such.

Source: arXiv 2109.01134 (few shots), arXiv 2203.05557 (base to novel), official code KaiyangZhou/CoOp @ ff61507;
pictures without labels: arXiv 2306.01669 (BatsResearch/menghini-neurips23-code @ b387624, methods/main_TRZSL.py).
Differs: the latter trains on 80 % of the labelled and of the pseudo-labelled pictures, here on all.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from everclip.data.datasets.base import LabelledImages
from everclip.data.sequences.few_pictures import FewDraw, Validation, few_pictures, require_training
from everclip.data.sequences.shots import ShotDraw, Unlabelled, choose_shots, choose_unlabelled
from everclip.errors import ConfigError, DataError
from everclip.evaluation.classification import Classification
from everclip.objectives.classification import Classification as LabelObjective
from everclip.types import (
    NO_CLASSES,
    Indices,
    Positive,
    Samples,
    Session,
    Task,
    TaskSequence,
    Templates,
)


def few_shot(
    *,
    dataset: LabelledImages,
    shots: Annotated[int, Field(ge=0)] | None = 16,
    draw: FewDraw = "coop",
    validation: Validation = "none",
    unlabelled: Unlabelled = 0,
    templates: Templates | None = None,
    seed: int = 1,
) -> TaskSequence:
    """All classes of a data set in one session, `shots` pictures each; tested on all of them.

    Args:
        dataset: with its official split.
        shots: labelled training pictures per class, None for all; a class with fewer gives all it has.
        draw: see `few_pictures`.
        validation: see `few_pictures`.
        unlabelled: more training pictures per class whose labels are not shown, or the `rest` of them.
        templates: of the prompts, None for the data set's.
        seed: of the choice of shots.

    Raises:
        ConfigError: no pictures at all.
    """
    if shots == unlabelled == 0:
        raise ConfigError("sequence.shots=0 and sequence.unlabelled=0 leave no pictures; unlabelled=rest gives all")
    classes = dataset.classes(templates)
    few = few_pictures(dataset, shots, seed, draw, validation)
    session = Session(
        0,
        dataset.name,
        classes,
        classes,
        few.train,
        objective=LabelObjective(),
        unlabelled=_unlabelled(dataset.train, few.used, unlabelled, seed),
        validation=few.validation,
        without_labels=classes if shots == 0 else NO_CLASSES,
    )
    task = Task(dataset.name, classes, dataset.test, Classification(), 0)
    return TaskSequence(f"few_shot_{dataset.name}", (session,), (task,))


def base_to_novel(
    *,
    dataset: LabelledImages,
    shots: Positive | None = 16,
    draw: FewDraw = "coop",
    validation: Validation = "none",
    templates: Templates | None = None,
    seed: int = 1,
) -> TaskSequence:
    """The first half of the classes in one session; tested on both halves, each among its own classes.

    Args:
        dataset: with its official split. Of an odd number of classes, one more is base than novel.
        shots: training pictures per base class, None for all; a class with fewer gives all it has.
        draw: see `few_pictures`. As in CoOp's code, the choice is made over all classes, then the base classes kept.
        validation: see `few_pictures`; of the base classes.
        templates: of the prompts, None for the data set's.
        seed: of the choice of shots.
    """
    classes = dataset.classes(templates)
    half = (len(classes) + 1) // 2
    base, novel = classes.select(range(half)), classes.select(range(half, len(classes)))
    few = few_pictures(dataset, shots, seed, draw, validation)
    session = Session(0, "base", base, base, few.train, objective=LabelObjective(), validation=few.validation)
    session = session.map(lambda samples: samples.subset(samples.indices_of(base)))
    tasks = [
        Task(title, part, dataset.test.subset(dataset.test.indices_of(part)), Classification("task"), trained)
        for title, part, trained in (("base", base, 0), ("novel", novel, None))
    ]
    name = f"base_to_novel_{dataset.name}"
    return TaskSequence(name, (session,), tuple(tasks), "base_to_novel", evaluate="all")


def transductive(
    *,
    dataset: LabelledImages,
    labelled: Annotated[float, Field(gt=0, lt=1)] = 0.62,
    shots: Positive | None = None,
    draw: ShotDraw = "coop",
    unlabelled: Unlabelled = "rest",
    class_seed: int = 500,
    templates: Templates | None = None,
    seed: int = 1,
) -> TaskSequence:
    """Pictures with labels of some classes, pictures without of the others; tested on both, each among all classes.

    Args:
        dataset: with its official split.
        labelled: share of the classes that have labels, rounded down.
        shots: labelled training pictures per class, None for all; a class with fewer gives all it has.
        draw: see `choose_shots`.
        unlabelled: training pictures per class without labels, or the `rest`: all of them.
        class_seed: of the choice of the classes with labels, as in the code of arXiv 2306.01669.
        templates: of the prompts, None for the data set's.
        seed: of the choice of pictures.

    Raises:
        ConfigError: no class with labels, or a data set for testing only.
        DataError: no pictures are left to come without labels.
    """
    require_training(dataset)
    classes = dataset.classes(templates)
    count = int(labelled * len(classes))
    if not count:
        raise ConfigError(f"sequence.labelled={labelled} of {len(classes)} classes is none; give a larger share")
    drawn = np.sort(np.random.RandomState(class_seed).choice(len(classes), count, replace=False))
    seen, hidden = (classes.select(p.tolist()) for p in (drawn, np.setdiff1d(np.arange(len(classes)), drawn)))
    parts = [dataset.train.subset(dataset.train.indices_of(part)) for part in (seen, hidden)]
    session = Session(
        0,
        "transductive",
        classes,
        classes,
        parts[0].subset(choose_shots(parts[0].labels, shots, seed, draw)),
        objective=LabelObjective(),
        unlabelled=_unlabelled(parts[1], np.empty(0, np.int64), unlabelled, seed),
        without_labels=hidden,
    )
    tasks = [
        Task(title, part, dataset.test.subset(dataset.test.indices_of(part)), Classification(), 0)
        for title, part in (("labelled", seen), ("unlabelled", hidden))
    ]
    return TaskSequence(f"transductive_{dataset.name}", (session,), tuple(tasks), "base_to_novel")


def _unlabelled(samples: Samples, chosen: Indices, count: Unlabelled, seed: int) -> Samples | None:
    """Pictures to come without labels beside those that are `chosen`; None if none are asked for.

    Raises:
        DataError: there are none left.
    """
    if count == 0:
        return None
    positions = choose_unlabelled(samples.labels, chosen, count, seed)
    if not len(positions):
        raise DataError(f"no pictures are left beside those trained on, unlabelled={count}; give sequence.shots=...")
    return samples.subset(positions)
