"""Few-shot class-incremental learning with the published session lists.

Source: arXiv 2004.10956 (xyutao/fscil @ e76d37c), lists of CEC (icoz69/CEC-CVPR2021 @ 3a5d335); class order: identity.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from everclip.data.datasets.base import LabelledImages, split_lines
from everclip.data.sequences import class_incremental
from everclip.data.sequences.class_incremental import Protocol
from everclip.errors import DataError
from everclip.types import ClassSet, Indices, Positive, TaskSequence, Templates


def fscil(
    *,
    dataset: LabelledImages,
    base_classes: Positive,
    way: Positive,
    shots: Positive,
    draw: Literal["paper", "seeded"] = "paper",
    templates: Templates | None = None,
    seed: int = 0,
) -> TaskSequence:
    """Base session with all pictures of the first classes, then sessions of `way` classes with `shots` pictures each.

    Args:
        dataset: with its official split.
        base_classes: classes of session 0.
        way: new classes per later session.
        shots: training pictures per new class.
        draw: which ones: those of the published lists (`paper`), or drawn with `seed` (`seeded`).
        templates: of the prompts, None for the data set's.
        seed: of a seeded draw.

    Raises:
        DataError: a published list does not fit the data set.
    """
    protocol = Protocol(base_classes, way, shots, seed=seed)
    train = dataset.train
    if draw == "paper":
        base = np.flatnonzero(train.labels < base_classes)
        train = train.subset(np.concatenate([base, *_listed(dataset, protocol)]))
    name = f"fscil_{dataset.name}"
    return class_incremental.build(name, protocol, train, dataset.test, dataset.names, templates or dataset.templates)


def _listed(dataset: LabelledImages, protocol: Protocol) -> list[Indices]:
    """Positions of each later session's listed pictures, checked against the protocol."""
    position = {key: i for i, key in enumerate(dataset.train_keys)}
    listed: list[Indices] = []
    everything = ClassSet(tuple(range(len(dataset.names))), dataset.names)
    for number, numbers in enumerate(protocol.sessions_of(dataset.names)[1:], start=2):
        file = f"session_{number}.txt"
        lines = split_lines(dataset.name, file)
        keys = [line if line in position else line.rpartition("/")[2] for line in lines]
        missing = [key for key in keys if key not in position]
        if missing:
            raise DataError(f"{dataset.name}: {missing[0]} of {file} is no training picture of the data set")
        chosen = np.array([position[key] for key in keys])
        labels = dataset.train.labels[chosen]
        counts = [int((labels == class_id).sum()) for class_id in everything.select(numbers).ids]
        if sum(counts) != len(labels) or any(count != protocol.shots for count in counts):
            raise DataError(f"{dataset.name}: {file} does not hold {protocol.shots} pictures of classes {numbers}")
        listed.append(chosen)
    return listed
