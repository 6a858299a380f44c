"""Which pictures are chosen where only some are used."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from everclip.errors import DataError
from everclip.types import Indices

ShotDraw = Literal["seeded", "coop"]
Unlabelled = Annotated[int, Field(ge=0)] | Literal["rest"]  # pictures per class, or all that are left


def choose_shots(labels: Indices, shots: int | None, seed: int, draw: ShotDraw = "seeded") -> Indices:
    """Positions of `shots` pictures of every class, all of a class that has fewer.

    Args:
        labels: (N,) of the pictures.
        shots: per class, None for all pictures.
        seed: of the choice.
        draw: `seeded`: a class's choice depends on its label and pictures alone, and stays in the order of the data
            set; `coop`: the pictures, in the order, that CoOp's code draws with this seed (KaiyangZhou/Dassl.pytorch
            @ c61a1b5, `generate_fewshot_dataset`).
    """
    if draw == "coop":
        return coop_shots(labels, shots, random.Random(seed))
    if shots is None:
        return np.arange(len(labels))
    parts = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        keys = np.random.Generator(np.random.PCG64([seed, int(label)])).random(len(own))
        parts.append(np.sort(own[np.argsort(keys)[:shots]]))
    return np.concatenate(parts)


def choose_unlabelled(labels: Indices, chosen: Indices, count: Unlabelled, seed: int) -> Indices:
    """Positions of the pictures that come without their labels, in random order: a sorted one would tell them.

    Args:
        labels: (N,) of the pictures.
        chosen: positions of those that have another use.
        count: per class, of the others; all of a class that has fewer.
        seed: of choice and order.
    """
    left = np.setdiff1d(np.arange(len(labels)), chosen)
    if count != "rest" and len(left):
        left = left[choose_shots(labels[left], count, seed)]
    return np.random.Generator(np.random.PCG64([seed, 2])).permutation(left)


def coop_shots(labels: Indices, shots: int | None, stream: random.Random) -> Indices:
    """The choice of `choose_shots` by CoOp's code, where it has drawn from the stream before."""
    if shots is None:
        return np.arange(len(labels))
    members = [np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(labels.tolist())]
    chosen = [stream.sample(own, shots) if len(own) >= shots else own for own in members]
    return np.array([position for own in chosen for position in own], dtype=np.int64)


def require_shots(labels: Indices, shots: int | None, names: Sequence[str]) -> None:
    """Checks that every class has at least `shots` pictures.

    Raises:
        DataError: names the first class, by label, that has fewer.
    """
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if shots is not None and count < shots:
            raise DataError(f"class {names[label]!r} has {count} training pictures, fewer than {shots} shots")


def choose_test(labels: Indices, share: float, seed: int) -> Indices:
    """Positions of the test pictures when one set is divided: `share` of every class, rounded, at least one.

    Every class keeps at least one other picture if it has two.
    """
    parts = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        count = max(1, min(len(own) - 1, round(share * len(own))))
        keys = np.random.Generator(np.random.PCG64([seed, int(label), 1])).random(len(own))
        parts.append(own[np.argsort(keys)[:count]])
    return np.sort(np.concatenate(parts))
