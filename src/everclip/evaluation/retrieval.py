"""Image-text retrieval: recall at K in both directions, exact whatever is compared at a time.

Source of the protocol: arXiv 1504.00325 and the five-caption splits of Karpathy (arXiv 1412.2306): any of a picture's
texts is right for it, and every text is a query of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from everclip.evaluation.rescoring import Features, PairScorer, rescore
from everclip.metrics.retrieval import ENTRY
from everclip.metrics.scores import Score
from everclip.types import Batch, ClassSet, Evaluator, Guess, Model, Passes, Task, Verdict

RANKS = (1, 5, 10)
CHUNK = 1024  # queries compared with everything at a time
SHOWN = 3  # texts of a guess


@dataclass(frozen=True)
class Retrieval(Evaluator):
    """`i2t_r<K>` (a picture finds one of its texts), `t2i_r<K>` (a text finds its picture), in %, and `mean_recall`.

    Attributes:
        scorer: orders the first answers of a query anew; None: they stay as similarity has them.
    """

    entry = ENTRY
    open_vocabulary = True
    scorer: PairScorer | None = None

    @property
    @override
    def identity(self) -> str:
        return "retrieval" if self.scorer is None else f"retrieval {self.scorer.identity}"

    @override
    def evaluate(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        texts = [text for own in task.samples.texts for text in own]
        owner = torch.tensor([sample for sample, own in enumerate(task.samples.texts) for _ in own])
        pictures = passes.samples(task.samples, lambda batch: model.encode_image(batch.images), by_features=True).cpu()
        captions = passes.texts(texts, model.encode_text).cpu()
        found = {
            "i2t": ranks(pictures, captions, torch.arange(len(pictures)), owner),
            "t2i": ranks(captions, pictures, owner, torch.arange(len(pictures))),
        }
        facts: dict[str, Any] = {}
        if self.scorer is not None:
            known = Features(pictures, captions, owner)
            found, facts = rescore(self.scorer, model, task.samples, passes, known, found)
        scores = {name: score for way, before in found.items() for name, score in recalls(way, before).items()}
        mean = sum(score.value for score in scores.values()) / len(scores)
        return Verdict(scores | {ENTRY: Score(mean, len(pictures))}, facts)

    @override
    def guesses(self, model: Model, task: Task, batch: Batch, seen: Sequence[ClassSet]) -> list[Guess]:
        """The nearest first texts of the task's first samples; a text may be right for several pictures."""
        texts = [own[0] for own in task.samples.texts]
        scale = model.backbone.logit_scale
        logits = scale * (model.encode_image(batch.images).float() @ model.encode_text(texts).float().T)
        best = logits.softmax(dim=-1).topk(min(SHOWN, len(texts)))
        return [
            Guess(texts[index], tuple((texts[c], round(v, 4)) for c, v in zip(columns, values, strict=True)))
            for index, columns, values in zip(
                batch.indices.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]


def ranks(queries: Tensor, items: Tensor, query_owner: Tensor, item_owner: Tensor) -> Tensor:
    """How many wrong items stand before each query's best right one (Q,), ties counted against it.

    Compared in float64, a chunk of queries at a time: the same numbers for any size of a chunk.

    Args:
        queries: (Q, E).
        items: (I, E).
        query_owner: (Q,) what a query belongs to.
        item_owner: (I,) what an item belongs to; equal owners are right for each other.
    """
    found = []
    for start in range(0, len(queries), CHUNK):
        similar = queries[start : start + CHUNK].double() @ items.double().T
        right = query_owner[start : start + CHUNK, None] == item_owner
        best = similar.masked_fill(~right, -torch.inf).max(dim=1, keepdim=True).values
        found.append(((similar >= best) & ~right).sum(dim=1))
    return torch.cat(found)


def recalls(direction: str, found: Tensor) -> dict[str, Score]:
    """Recall at each of `RANKS` by name, from the number (Q,) of wrong items before the first right one."""
    return {f"{direction}_r{k}": Score.share(int((found < k).sum()), len(found)) for k in RANKS}
