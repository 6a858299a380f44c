"""A closer look at the pairs that plain similarity takes for likely."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everclip.types import Model, Passes, Samples

CHUNK = 1024  # queries compared with everything at a time


@dataclass(frozen=True)
class Features:
    """Of a task's pictures (P, E) and texts (N, E), of length 1, and the picture that a text belongs to (N,)."""

    pictures: Tensor
    texts: Tensor
    owner: Tensor


class PairScorer(ABC):
    """Scores single pairs of a picture and a text by more than their features.

    Attributes:
        top_k: how many answers of a query are ordered anew; the others stay behind them as they are.
    """

    top_k: int

    @property
    @abstractmethod
    def identity(self) -> str:
        """What a sequence's fingerprint names it by."""

    @abstractmethod
    def score(
        self, model: Model, samples: Samples, passes: Passes, features: Features, pairs: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """Scores (M,) of pairs and JSON-like facts about them.

        Args:
            model: in evaluation mode.
            samples: of the task.
            passes: over samples.
            features: of all samples.
            pairs: (M, 2), the number of a picture and of a text in each, no pair twice.
        """


def rescore(
    scorer: PairScorer, model: Model, samples: Samples, passes: Passes, features: Features, before: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """How many wrong answers stand before each query's best right one after rescoring, by direction, and facts.

    Ties count against a query. One whose first `top_k` answers hold none that is right stays where it is.

    Args:
        scorer: orders the first answers anew.
        model: in evaluation mode.
        samples: of the task.
        passes: over samples.
        features: of all samples.
        before: the same numbers by plain similarity: of pictures (P,) as `i2t`, of texts (N,) as `t2i`.
    """
    pictures, texts, owner = features.pictures, features.texts, features.owner
    found_texts, found_pictures = _first(pictures, texts, scorer.top_k), _first(texts, pictures, scorer.top_k)
    rows, columns = (torch.arange(len(found))[:, None].expand_as(found) for found in (found_texts, found_pictures))
    asked = [torch.stack(both, dim=-1) for both in ((rows, found_texts), (found_pictures, columns))]
    pairs, place = torch.cat([pair.reshape(-1, 2) for pair in asked]).unique(dim=0, return_inverse=True)
    scores, facts = scorer.score(model, samples, passes, features, pairs)
    after = {}
    for way, pair, of_pair in zip(("i2t", "t2i"), asked, place.split([p[..., 0].numel() for p in asked]), strict=True):
        scored, right = scores[of_pair].view(pair.shape[:2]), owner[pair[..., 1]] == pair[..., 0]
        best = scored.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        again = ((scored >= best) & ~right).sum(dim=1)
        after[way] = torch.where(before[way] < pair.shape[1], again, before[way])
    return after, facts


def _first(queries: Tensor, items: Tensor, count: int) -> Tensor:
    """The most similar items (Q, K) of every query, at most `count`."""
    count = min(count, len(items))
    chunks = [(chunk.double() @ items.double().T).topk(count).indices for chunk in queries.split(CHUNK)]
    return torch.cat(chunks)


def plain() -> None:
    """No scorer: similarity orders all answers."""
