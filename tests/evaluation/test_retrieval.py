"""Recall at K against a naive loop, ties, and what it is compared in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.data.pairs import CaptionedImages
from everclip.evaluation import retrieval
from everclip.evaluation.retrieval import Retrieval, ranks
from everclip.metrics.scores import Score
from everclip.types import Batch, ClassSet, Draw, Indices, Prepare, Samples, Task
from tests.evaluation.conftest import Chunks, Table


class Numbers(Samples):
    """Pictures that hold their number."""

    def __init__(self, count: int) -> None:
        self.labels = np.arange(count)

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        return self.batch(torch.tensor(list(indices)).float()[:, None, None, None], indices)

    def subset(self, indices: Sequence[int] | Indices) -> Samples:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "numbers"

    def version(self) -> str:
        return self.fingerprint()


def make_task(captions: Sequence[Sequence[int]]) -> Task:
    pairs = CaptionedImages(Numbers(len(captions)), [[str(number) for number in own] for own in captions])
    return Task("made", ClassSet((), ()), pairs, Retrieval())


def judged(model: Table, task: Task, size: int = 7) -> dict[str, Score]:
    return Retrieval().evaluate(model, task, Chunks(size), ()).scores


def naive(pictures: Tensor, texts: Tensor, owner: list[int]) -> dict[str, float]:
    """The six recalls by sorting every row."""
    found = {}
    similar = (pictures.double() @ texts.double().T).tolist()
    for k in (1, 5, 10):
        hits = [
            any(owner[text] == picture for text in sorted(range(len(owner)), key=lambda t: -row[t])[:k])
            for picture, row in enumerate(similar)
        ]
        found[f"i2t_r{k}"] = 100 * sum(hits) / len(hits)
        columns = list(zip(*similar, strict=True))
        hits = [
            owner[text] in sorted(range(len(similar)), key=lambda p: -column[p])[:k]
            for text, column in enumerate(columns)
        ]
        found[f"t2i_r{k}"] = 100 * sum(hits) / len(hits)
    return found


def test_recalls_are_those_of_a_naive_loop_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    counts = [5, 1, 3] * 8
    owner = [picture for picture, count in enumerate(counts) for _ in range(count)]
    texts = torch.randn(24, 6, generator=draw)[owner] + 0.9 * torch.randn(len(owner), 6, generator=draw)
    model = Table(torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), texts)
    captions = np.split(np.arange(len(owner)), np.cumsum(counts)[:-1])
    task = make_task([own.tolist() for own in captions])
    expected = naive(model.pictures, model.texts, owner)
    scores = judged(model, task)
    assert {name: scores[name].value for name in expected} == pytest.approx(expected)
    assert 20 < expected["i2t_r1"] < 90  # neither all right nor all wrong
    assert scores["mean_recall"].value == pytest.approx(sum(expected.values()) / 6)
    assert (scores["i2t_r1"].count, scores["t2i_r1"].count) == (24, len(owner))
    monkeypatch.setattr(retrieval, "CHUNK", 5)
    assert judged(model, task, size=4) == scores


def test_ties_count_against_the_query() -> None:
    constant = Table(torch.ones(20, 4), torch.ones(100, 4))
    scores = judged(constant, make_task([range(5 * i, 5 * i + 5) for i in range(20)]))
    assert {name: score.value for name, score in scores.items()} == dict.fromkeys(scores, 0.0)


def test_any_of_a_pictures_texts_is_right_and_every_text_is_a_query() -> None:
    axes = torch.eye(3)
    # Picture 0 finds its second text; its first text finds picture 1.
    model = Table(axes[:2], torch.stack([axes[1], axes[0], axes[1]]))
    found = ranks(model.pictures, model.texts, torch.arange(2), torch.tensor([0, 0, 1]))
    assert found.tolist() == [0, 1]  # of picture 1, a wrong text ties with the right one
    found = ranks(model.texts, model.pictures, torch.tensor([0, 0, 1]), torch.arange(2))
    assert found.tolist() == [1, 0, 0]


def test_guesses_show_the_nearest_first_texts() -> None:
    axes = torch.eye(3)
    model, task = Table(axes, axes[[0, 2, 1]]), make_task([[0], [1], [2]])
    (guess,) = Retrieval().guesses(model, task, task.samples.read([1], lambda image: torch.empty(0)), ())
    assert (guess.label, guess.names[0][0]) == ("1", "2")
