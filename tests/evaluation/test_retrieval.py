"""Recall at K and ranks against a naive loop, ties, and what they are compared in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.data.pairs import CaptionedImages
from everclip.evaluation import ranks as ranking
from everclip.evaluation import retrieval
from everclip.evaluation.ranks import ranks
from everclip.evaluation.retrieval import Retrieval
from everclip.metrics.retrieval import PROTOCOL, STORED
from everclip.metrics.scores import Score, ScoreTable
from everclip.types import Batch, ClassSet, Draw, Indices, Prepare, Samples, Task
from tests.evaluation.conftest import Chunks, Table


class Numbers(Samples):
    """Pictures that hold their number."""

    def __init__(self, count: int) -> None:
        self.labels = np.arange(count)

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        return self.batch(torch.from_numpy(self.labels[list(indices)]).float()[:, None, None, None], indices)

    def subset(self, indices: Sequence[int] | Indices) -> Samples:
        part = Numbers(0)
        part.labels = self.labels[list(indices)]
        return part

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
    """The six recalls by sorting every row, and what follows from the position of the first right one."""
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
    order = [sorted(range(len(owner)), key=lambda t: -row[t]) for row in similar]
    first = {"i2t": [[owner[t] for t in own].index(picture) + 1 for picture, own in enumerate(order)]}
    order = [sorted(range(len(similar)), key=lambda p: -column[p]) for column in zip(*similar, strict=True)]
    first["t2i"] = [own.index(owner[text]) + 1 for text, own in enumerate(order)]
    for way, positions in first.items():
        found[f"{way}_mrr"] = 100 * fmean(1 / position for position in positions)
        found[f"{way}_median_rank"] = median(positions)
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
    total = sum(value for name, value in expected.items() if "_r" in name and "rank" not in name)
    assert scores["r_sum"].value == pytest.approx(total)
    assert scores["mean_recall"].value == pytest.approx(total / 6)
    assert (scores["i2t_r1"].count, scores["t2i_r1"].count) == (24, len(owner))
    for name, size in (("BLOCK", 5 * len(owner)), ("PAIRS", 3), ("DENSE", 10**6)):  # the last: all in float64
        monkeypatch.setattr(ranking, name, size)
        assert judged(model, task, size=4) == scores


def test_ties_count_against_the_query() -> None:
    constant = Table(torch.ones(20, 4), torch.ones(100, 4))
    scores = judged(constant, make_task([range(5 * i, 5 * i + 5) for i in range(20)]))
    recalls = {name: score.value for name, score in scores.items() if "_r" in name and "rank" not in name}
    assert recalls == dict.fromkeys(recalls, 0.0)
    assert (scores["i2t_median_rank"].value, scores["t2i_median_rank"].value) == (96, 20)  # after all wrong ones


@pytest.mark.parametrize("dense", [0, 10**9], ids=["one by one", "all at once"])
def test_what_float32_cannot_tell_apart_is_told_by_float64(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "DENSE", dense)
    draw = torch.Generator().manual_seed(0)
    owner = torch.arange(40).repeat_interleave(2)
    # Similarities of about 1 that differ by some 1e-9, and some that do not.
    pictures = torch.cat([torch.ones(40, 1), 3e-5 * torch.randn(40, 7, generator=draw)], dim=1)
    texts = torch.cat([torch.ones(80, 1), 3e-5 * torch.randn(80, 7, generator=draw)], dim=1)
    texts[10:20] = texts[:10]
    similar = pictures.double() @ texts.double().T
    right = owner == torch.arange(40)[:, None]
    best = similar.masked_fill(~right, 0).amax(dim=1, keepdim=True)
    own = similar[owner, torch.arange(80)]
    expected = ((similar >= best - 1e-14) & ~right).sum(dim=1), ((similar >= own - 1e-14) & ~right).sum(dim=0)
    assert len((pictures @ texts.T).unique()) < 10 < len(similar.unique())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ranks(pictures, texts, owner)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.equal(theirs)


def test_any_of_a_pictures_texts_is_right_and_every_text_is_a_query() -> None:
    axes = torch.eye(3)
    # Picture 0 finds its second text; its first text finds picture 1.
    model = Table(axes[:2], torch.stack([axes[1], axes[0], axes[1]]))
    of_pictures, of_texts = ranks(model.pictures, model.texts, torch.tensor([0, 0, 1]))
    assert of_pictures.tolist() == [0, 1]  # of picture 1, a wrong text ties with the right one
    assert of_texts.tolist() == [1, 0, 0]


def test_ranks_are_the_same_for_texts_in_any_order() -> None:
    draw = torch.Generator().manual_seed(0)
    pictures, texts = torch.randn(6, 4, generator=draw), torch.randn(15, 4, generator=draw)
    owner, order = torch.arange(15) % 6, torch.randperm(15, generator=draw)
    (one, of_texts), (other, moved) = ranks(pictures, texts, owner), ranks(pictures, texts[order], owner[order])
    assert one.equal(other)
    assert moved.equal(of_texts[order])


@pytest.mark.parametrize("few", [100, 3])
def test_a_sketch_is_what_the_verdict_gives_besides(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "SKETCHED", few)
    draw = torch.Generator().manual_seed(0)
    model = Table(torch.randn(7, 5, generator=draw), torch.randn(20, 5, generator=draw))
    task = make_task([[0, 1], [2], [3, 4, 5], [6], [7, 8], [9, 10], [19]])
    sketch = Retrieval().sketch(model, task, Chunks(2))
    verdict = Retrieval().evaluate(model, task, Chunks(3), ())
    rows = range(7) if few == 100 else [0, 3, 6]
    first = [[0, 2, 3, 6, 7, 9, 19][row] for row in rows]
    for found in (sketch, verdict.sketch):
        assert found["pictures"].equal(model.pictures[list(rows)])
        assert found["texts"].equal(model.texts[first])
    alone, compared = Retrieval().diagnose(sketch, None), Retrieval().diagnose(sketch, sketch)
    assert (compared["neighbour_overlap"].value, compared["neighbour_overlap"].count) == (100, len(first))
    assert compared.keys() - alone.keys() == {"image_cka", "text_cka", "neighbour_overlap"}


def test_guesses_show_the_nearest_first_texts() -> None:
    axes = torch.eye(3)
    model, task = Table(axes, axes[[0, 2, 1]]), make_task([[0], [1], [2]])
    (guess,) = Retrieval().guesses(model, task, task.samples.read([1], lambda image: torch.empty(0)), ())
    assert (guess.label, guess.names[0][0]) == ("1", "2")


def unit_rows(draw: np.random.Generator, *shape: int) -> Tensor:
    rows = torch.from_numpy(draw.integers(-9, 10, shape).astype(np.float32))
    return rows / rows.norm(dim=1, keepdim=True)


def test_a_search_among_stored_pictures_is_that_of_the_official_code(golden: Callable[[str], Any]) -> None:
    draw, sizes = np.random.default_rng(0), (7, 5, 9)
    base = [unit_rows(draw, size, 8) for size in sizes]
    kept: list[dict[str, Tensor]] = []
    table = ScoreTable(3)
    for session, expected in enumerate(golden("stored_search_official")["sessions"]):
        texts = [F.normalize(own + unit_rows(draw, *own.shape) * (0.4 + 0.4 * session), dim=1) for own in base]
        now = base[session]
        kept.append({"pictures": F.normalize(now + 0.4 * unit_rows(draw, *now.shape), dim=1)})
        asked = [{"texts": texts[j], "owner": torch.arange(sizes[j])} for j in range(session + 1)]
        beside = {name: Score(50, 1) for name in ("mean_recall", "i2t_r1", "t2i_r1", "i2t_r5", "t2i_r5")}
        found = {j: Retrieval(stored=True).search(asked[j], kept, j) for j in range(session + 1)}
        table.append({j: beside | found.get(j, {}) for j in range(3)})
        of_session, of_run = PROTOCOL.session(table), PROTOCOL.summary(table)
        assert {name: of_session.get(name, of_run.get(name)) for name in expected} == pytest.approx(expected)
        assert [of_run[f"last_{name}"] for name in STORED] == [of_session[name] for name in STORED]
