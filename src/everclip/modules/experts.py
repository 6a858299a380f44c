"""Several sets of low-rank updates of one backbone, each for some classes, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from everclip.modules.lora import LowRank
from everclip.types import ClassSet

NOBODY = -1
Scorer = Callable[[Tensor], Tensor]  # from pictures (B, ...) to logits (B, C)


class Experts(nn.Module):
    """Sets of updates, numbered as they came: the last is the backbone's own and is trained, the others are kept.

    Args:
        updates: of the backbone.
    """

    earlier: Tensor
    ids: Tensor
    owners: Tensor

    def __init__(self, updates: Sequence[LowRank]) -> None:
        super().__init__()
        self._updates = tuple(updates)  # part of the backbone, and so of the state, only once
        self.factors = tuple(parameter for update in updates for parameter in update.parameters())
        self.register_buffer("earlier", torch.empty(0, sum(factor.numel() for factor in self.factors)))
        self.register_buffer("ids", torch.empty(0, dtype=torch.long))  # of all classes
        self.register_buffer("owners", torch.empty(0, dtype=torch.long))  # whose they are

    def __len__(self) -> int:
        return len(self.earlier) + 1

    def begin(self) -> None:
        """Puts the last set away, if it was given classes, and makes one that changes nothing yet."""
        if len(self.ids):
            self.earlier = torch.cat([self.earlier, parameters_to_vector(self.factors).detach()[None]])
        for update in self._updates:
            update.reset()

    def give(self, classes: ClassSet, number: int) -> None:
        """Makes `classes` those of set `number`."""
        self.ids = torch.cat([self.ids, self.ids.new_tensor(classes.ids)])
        self.owners = torch.cat([self.owners, self.owners.new_full((len(classes),), number)])

    def owners_of(self, labels: Tensor) -> Tensor:
        """The set (B,) that each label (B,) belongs to, all of which were given to one."""
        ids, order = self.ids.sort()
        return self.owners[order[torch.searchsorted(ids, labels.to(ids.device))]]

    def share_out(self, classes: ClassSet) -> dict[int, list[int]]:
        """By set, the positions of its classes; those that were given to none are `NOBODY`'s."""
        owner = dict(zip(self.ids.tolist(), self.owners.tolist(), strict=True))
        shares: dict[int, list[int]] = {}
        for position, class_id in enumerate(classes.ids):
            shares.setdefault(owner.get(class_id, NOBODY), []).append(position)
        return shares

    @contextmanager
    def acting(self, number: int) -> Iterator[None]:
        """The backbone as a set makes it, as it was loaded for `NOBODY`; with gradients for the last set alone."""
        if number == len(self.earlier):
            yield
            return
        own = [factor.data for factor in self.factors]
        with torch.no_grad():
            nothing = self.earlier.new_zeros(self.earlier.shape[1])
            vector_to_parameters(nothing if number == NOBODY else self.earlier[number], self.factors)
            try:
                yield
            finally:
                for factor, data in zip(self.factors, own, strict=True):
                    factor.data = data

    def scorer(self, number: int, make: Callable[[], Scorer]) -> Scorer:
        """What `make` gives while a set is acting; it is acting again in every call."""
        with self.acting(number):
            score = make()

        def act(images: Tensor) -> Tensor:
            with self.acting(number):
                return score(images)

        return act


class Selector(nn.Module):
    """Rows (R, D + 1) of a linear layer, the bias last, of which every expert has some; frozen while there are none.

    Args:
        width: D.
    """

    owners: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(0, width + 1), requires_grad=False)
        self.register_buffer("owners", torch.empty(0, dtype=torch.long))

    def grow(self, owners: Tensor) -> None:
        """Adds a row for each of these experts (N,), drawn as in `nn.Linear`; those there are stay."""
        width = self.rows.shape[1] - 1
        fresh = torch.empty(len(owners), width + 1).uniform_(-1, 1) / width**0.5
        self.rows = nn.Parameter(torch.cat([self.rows.detach(), fresh.to(self.rows.device)]))
        self.owners = torch.cat([self.owners, owners.to(self.owners.device)])

    def scores(self, logits: Tensor) -> Tensor:
        """Scores (B, T) of the experts from those (B, R) of the rows, whose probabilities are added up."""
        return torch.stack([logits[:, self.owners == owner].logsumexp(dim=1) for owner in self.owners.unique()], dim=1)


def choose(scores: Tensor, count: int, own: Tensor | None = None) -> Tensor:
    """Which `count` experts have the highest scores, as a mask (B, T).

    Args:
        scores: (B, T).
        count: all are chosen if there are no more.
        own: (B,) the right expert of each picture, which takes the place of the last one chosen where it is missing.

    Source: `select_topk_experts` of Raincleared-Song/ConPET @ 1a37c13, loss_similarity.py.
    """
    chosen = scores.topk(min(count, scores.shape[1]), dim=1).indices
    if own is not None:
        missing = (chosen != own[:, None]).all(dim=1)
        chosen[missing, -1] = own[missing]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)


def combine(
    images: Tensor, chosen: Tensor, experts: Mapping[int, tuple[Sequence[int], Scorer]], num_classes: int, null: float
) -> Tensor:
    """Logits (B, C): for each picture those of the experts chosen for it, `null` for the classes of all others.

    Args:
        images: (B, ...), of which an expert gets the rows that chose it.
        chosen: (B, T) mask.
        experts: by column of `chosen`, the columns of the logits that they fill, and from what.
        num_classes: C.
        null: a logit that is low, but not infinitely so.

    Source: `generate_continual_logits` of Raincleared-Song/ConPET @ 1a37c13, loss_similarity.py.
    """
    logits = images.new_full((len(images), num_classes), null)
    for number, (columns, score) in experts.items():
        rows = chosen[:, number].nonzero()
        if len(rows):
            logits[rows, torch.tensor(columns, device=rows.device)] = score(images[rows[:, 0]])
    return logits
