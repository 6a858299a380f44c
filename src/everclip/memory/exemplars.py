"""Which pictures of earlier sessions to keep: functions of features, labels and numbers; pictures are held nowhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.data.images import ConcatSamples
from everclip.errors import ConfigError
from everclip.types import Samples, Session


def joined(*parts: Samples) -> Samples:
    """Several sets one after the other."""
    return ConcatSamples(parts)


def with_memory(session: Session) -> Samples:
    """The session's pictures, followed by those of earlier sessions that were kept."""
    return session.train if session.memory is None else joined(session.train, session.memory)


def numbers_of(session: Session, kept: Tensor) -> Tensor:
    """Numbers (N,) of the pictures of `with_memory` in the whole sequence.

    Args:
        session: with its memory.
        kept: numbers of the memory's pictures.
    """
    own = torch.arange(session.offset, session.offset + len(session.train), device=kept.device)
    return torch.cat([own, kept])


def by_class(session: Session) -> tuple[Tensor, Tensor]:
    """Positions in `with_memory` of the pictures of the session's classes, kept ones among them, and of all others."""
    labels = torch.from_numpy(with_memory(session).labels)
    present = torch.isin(labels, torch.tensor(session.classes.ids))
    return present.nonzero()[:, 0], (~present).nonzero()[:, 0]


def share(size: int, num_classes: int) -> int:
    """Pictures of every class in a memory of `size` that is divided equally.

    Raises:
        ConfigError: it does not hold one of each.
    """
    if size < num_classes:
        raise ConfigError(f"method.memory_size={size} does not hold one picture of each of {num_classes} classes")
    return size // num_classes


def first_of_each(labels: Tensor, count: int) -> Tensor:
    """Positions (M,) of the first `count` pictures of every class, or of all it has, class by class.

    Args:
        labels: (N,) of pictures in order of importance within their class.
        count: pictures per class.
    """
    members = [(labels == label).nonzero()[:count, 0] for label in labels.unique()]
    return torch.cat([torch.empty(0, dtype=torch.long, device=labels.device), *members])


def random_of_each(labels: Tensor, draws: Tensor, count: int) -> Tensor:
    """Positions (M,) of `count` random pictures of every class, or of all it has, class by class.

    Args:
        labels: (N,).
        draws: (N,) independent random numbers, which decide.
        count: pictures per class.
    """
    order = draws.argsort()
    return order[first_of_each(labels[order], count)]


def herding(features: Tensor, count: int) -> Tensor:
    """Positions (min(count, N),) of pictures chosen one by one, so that their mean stays near the mean of all.

    The first m of a longer choice are the choice of m.

    Args:
        features: (N, D), which are normalised here.
        count: how many to choose.

    Source: arXiv 1611.07725 algorithm 4 (LAMDA-CL/PyCIL @ f3509b8, models/base.py).
    """
    unit = F.normalize(features.double(), dim=1)
    mean, total = unit.mean(dim=0), torch.zeros_like(unit[0])
    left = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
    chosen = []
    for size in range(1, min(count, len(unit)) + 1):
        distances = (mean - (total + unit) / size).square().sum(dim=1)
        best = torch.where(left, distances, torch.inf).argmin()
        left[best] = False
        total += unit[best]
        chosen.append(best)
    return torch.stack(chosen)


def herding_of_each(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Positions (M,) of the pictures that `herding` chooses of every class, class by class, the most important first.

    Args:
        features: (N, D).
        labels: (N,).
        count: pictures per class.
    """
    members = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    return torch.cat([own[herding(features[own], count)] for own in members])


def reservoir(kept: Tensor, start: int, draws: Tensor, size: int) -> Tensor:
    """Numbers (min(start + N, size),) of what is kept after N more pictures, each of all so far equally likely.

    Args:
        kept: (min(start, size),) numbers of what was kept of the pictures before.
        start: how many there were; the next have the numbers `start`, `start` + 1, ...
        draws: (N,) independent random numbers in [0, 1), one per picture.
        size: of the memory.

    Source: algorithm R of Vitter, doi 10.1145/3147.3165 (aimagelab/mammoth @ e75a491, utils/buffer.py).
    """
    numbers = kept.tolist()
    places = (draws.double() * torch.arange(start + 1, start + len(draws) + 1, device=draws.device)).long()
    for number, place in enumerate(places.tolist(), start):
        if len(numbers) < size:
            numbers.append(number)
        elif place < size:
            numbers[place] = number
    return torch.tensor(numbers, dtype=torch.long, device=kept.device)


def class_means(features: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """The normalised mean (C, D) of the normalised features of each class.

    Args:
        features: (N, D).
        labels: (N,), with every class among them.
        classes: (C,) their ids, in the order wanted.

    Source: arXiv 1611.07725 algorithm 1 and section 2.1 (LAMDA-CL/PyCIL @ f3509b8, models/base.py).
    """
    unit = F.normalize(features, dim=1)
    return F.normalize(torch.stack([unit[labels == label].mean(dim=0) for label in classes]), dim=1)
