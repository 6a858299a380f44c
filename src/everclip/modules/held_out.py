"""Features to choose a method's own settings by, which are never those of the test set."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from everclip.types import Session

log = logging.getLogger("everclip")

FOLDS = 4


def held_out(
    session: Session, features: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None, setting: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Which training pictures (N,) to fit to; features (H, E) and labels (H,) to judge that by.

    These are the validation pictures where there are any, else the training pictures in fourfold cross-validation: each
    fold has every fourth picture of a class, and a class with a single picture is judged by none. Nothing, with a
    warning, where all classes have one: the first of the values that could be chosen then stands.

    Args:
        session: that is learnt.
        features: (N, E) of `session.train`.
        labels: (N,).
        validation: features and labels of `session.validation`, if there is one.
        setting: what is chosen, for the warning; empty: nothing.
    """
    if validation is not None:
        yield torch.ones_like(labels, dtype=torch.bool), *validation
        return
    rank = torch.zeros_like(labels)  # of a picture in its class
    for label in labels.unique():
        own = labels == label
        rank[own] = torch.arange(int(own.sum()), device=rank.device)
    if int(rank.max()) == 0:
        if not setting:
            return
        log.warning(
            "%s: %s has one picture of each class, too few to choose by: the first value stands, or give %s=",
            setting, session.name, setting,
        )  # fmt: skip
        return
    single = torch.isin(labels, labels[rank == 1], invert=True)
    for fold in range(FOLDS):
        held = (rank % FOLDS == fold) & ~single
        if held.any():
            yield ~held, features[held], labels[held]
