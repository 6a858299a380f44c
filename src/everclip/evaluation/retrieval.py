"""Image-text retrieval: recall at K in both directions, exact whatever is compared at a time.

Source of the protocol: arXiv 1504.00325 and the five-caption splits of Karpathy (arXiv 1412.2306): any of a picture's
texts is right for it, and every text is a query of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from everclip.evaluation.geometry import changes, geometry
from everclip.evaluation.ranks import ranks
from everclip.evaluation.rescoring import Features, PairScorer, rescore
from everclip.metrics.retrieval import ENTRY, OWN_STORED, RANKS, RECALLS, WAYS
from everclip.metrics.scores import Score
from everclip.types import Batch, ClassSet, Evaluator, Guess, Model, Passes, Task, Verdict

SKETCHED = 1000  # samples by whose features models are compared
SHOWN = 3  # texts of a guess


@dataclass(frozen=True)
class Retrieval(Evaluator):
    """What a picture finds among all texts (i2t), and what a text finds among all pictures (t2i).

    For each direction `<way>_r<K>`, the share that finds a right one among the first K, and `<way>_mrr`, the mean of
    one over the rank of the first right one, in %; `<way>_median_rank`, 1 at best. `mean_recall` is the mean of the six
    recalls, `r_sum` their sum. `diagnose` adds what tells why.

    Attributes:
        scorer: orders the first answers of a query anew; None: they stay as similarity has them.
        stored: whether texts are also searched for among features that pictures got when their session had been
            trained, as in a search index that is never made anew: `stored_t2i_r<K>` and `stored_t2i_mean_rank` among
            those of all sessions so far, `own_stored_t2i_r1` among those of the text's own session. Source:
            arXiv 2503.10111, official code JasonCodeMaker/CTVR @ 72b7652 (evaluator/validator.py).
    """

    entry = ENTRY
    open_vocabulary = True
    scorer: PairScorer | None = None
    stored: bool = False

    @property
    @override
    def keeps(self) -> bool:
        return self.stored

    @property
    @override
    def identity(self) -> str:
        words = ["retrieval", *([self.scorer.identity] if self.scorer else []), *(["stored"] if self.stored else [])]
        return " ".join(words)

    @override
    def evaluate(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        texts = [text for own in task.samples.texts for text in own]
        owner = torch.tensor([sample for sample, own in enumerate(task.samples.texts) for _ in own])
        pictures = passes.samples(task.samples, lambda batch: model.encode_image(batch.images), by_features=True).cpu()
        captions = passes.texts(texts, model.encode_text).cpu()
        found = dict(zip(WAYS, ranks(pictures, captions, owner), strict=True))
        facts: dict[str, Any] = {}
        if self.scorer is not None:
            known = Features(pictures, captions, owner)
            found, facts = rescore(self.scorer, model, task.samples, passes, known, found)
        scores: dict[str, Score] = {}
        for way, before in found.items():
            scores |= scores_of(way, before)
        total = sum(scores[name].value for name in RECALLS)
        scores |= {ENTRY: Score(total / len(RECALLS), len(pictures)), "r_sum": Score(total, len(pictures))}
        rows = _sketched(len(pictures))
        first = torch.searchsorted(owner, torch.tensor(rows))
        sketch = {"pictures": pictures[rows], "texts": captions[first]}
        if not self.stored:
            return Verdict(scores, facts, sketch)
        return Verdict(scores, facts, sketch, kept={"pictures": pictures}, queries={"texts": captions, "owner": owner})

    @override
    def search(self, queries: Mapping[str, Tensor], kept: Sequence[Mapping[str, Tensor]], own: int) -> dict[str, Score]:
        texts, owner = queries["texts"], queries["owner"]
        pictures = [each["pictures"] for each in kept]
        before = sum(len(each) for each in pictures[:own])
        among_all = ranks(torch.cat(pictures), texts, owner + before)[1]
        among_own = ranks(pictures[own], texts, owner)[1]
        scores = {f"stored_t2i_r{k}": Score.share(int((among_all < k).sum()), len(texts)) for k in RANKS}
        scores["stored_t2i_mean_rank"] = Score(float(among_all.double().mean()) + 1, len(texts))
        return scores | {OWN_STORED: Score.share(int((among_own < 1).sum()), len(texts))}

    @override
    def sketch(self, model: Model, task: Task, passes: Passes) -> Mapping[str, Tensor]:
        samples, rows = task.samples, _sketched(len(task.samples))
        few = samples if len(rows) == len(samples) else samples.subset(rows)
        pictures = passes.samples(few, lambda batch: model.encode_image(batch.images), by_features=True)
        texts = passes.texts([own[0] for own in few.texts], model.encode_text)
        return {"pictures": pictures.cpu(), "texts": texts.cpu()}

    @override
    def diagnose(self, now: Mapping[str, Tensor], start: Mapping[str, Tensor] | None) -> dict[str, Score]:
        """`geometry` of pictures with their first texts, and `changes` since the start."""
        numbers = geometry(**now) | ({} if start is None else changes(start, now))
        return {name: Score(value, len(now["pictures"])) for name, value in numbers.items()}

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


def _sketched(count: int) -> list[int]:
    """Positions of at most `SKETCHED` of so many samples, evenly spread."""
    return np.linspace(0, count - 1, min(count, SKETCHED)).round().astype(int).tolist()


def scores_of(way: str, before: Tensor) -> dict[str, Score]:
    """What follows from the number (Q,) of wrong items before each query's first right one, by name."""
    rank, count = before.double() + 1, len(before)
    shares = {f"{way}_r{k}": Score.share(int((before < k).sum()), count) for k in RANKS}
    return shares | {
        f"{way}_mrr": Score(100 * float((1 / rank).mean()), count),
        f"{way}_median_rank": Score(float(rank.quantile(0.5)), count),
    }
