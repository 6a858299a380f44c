"""Mean average precision and votes of the nearest against naive loops; ties; who takes part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.data.pairs import CaptionedImages
from everclip.errors import ConfigError
from everclip.evaluation import image_search
from everclip.evaluation.classification import Classification
from everclip.evaluation.image_search import ImageSearch, search, with_image_search
from everclip.methods.base import Method
from everclip.metrics.image_search import session_numbers, summary
from everclip.metrics.scores import Score, ScoreTable
from everclip.training.engine import Engine
from everclip.training.evaluation import Judge
from everclip.types import ClassSet, Session, Task, TaskSequence
from tests.evaluation.conftest import Chunks, Table
from tests.evaluation.test_retrieval import Numbers


def naive(features: Tensor, labels: list[int], k: int) -> tuple[list[float], list[bool]]:
    """Average precisions and whether more of the k nearest have a picture's label than any other; without ties."""
    precisions, told = [], []
    similar = (features.double() @ features.double().T).tolist()
    for query, row in enumerate(similar):
        others = sorted((i for i in range(len(labels)) if i != query), key=lambda i: -row[i])
        hits = [labels[i] == labels[query] for i in others]
        found = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
        precisions.append(fmean(found) if found else float("nan"))
        votes = {kind: sum(1 + row[i] / (4 * k) for i in others[:k] if labels[i] == kind) for kind in set(labels)}
        told.append(max(votes, key=lambda kind: votes[kind]) == labels[query])
    return precisions, told


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("block", [1, 2**22])
def test_search_is_that_of_a_naive_loop(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_search, "BLOCK", block)
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (30,), generator=draw)
    labels[7] = 9  # alone
    features = F.normalize(torch.randn(10, 6, generator=draw)[labels] + torch.randn(30, 6, generator=draw), dim=-1)
    precision, told = search(features, labels, k)
    expected, right = naive(features, labels.tolist(), k)
    assert precision.tolist() == pytest.approx(expected, nan_ok=True)
    assert told.tolist() == right
    assert 0 < sum(right) < 30 or k == 100


def test_ties_count_against_the_query() -> None:
    precision, told = search(torch.ones(6, 4) / 2, torch.tensor([0, 0, 0, 1, 1, 1]), 3)
    assert precision.tolist() == pytest.approx([(1 / 4 + 2 / 5) / 2] * 6)  # three others first
    assert not told.any()


def test_pictures_that_are_alone_are_asked_for_by_none() -> None:
    axes = torch.eye(3)
    samples = Numbers(3)
    model, task = Table(axes[[0, 0, 1]], axes), Task("made", ClassSet((), ()), samples, ImageSearch())
    samples.labels = np.array([0, 1, 2])  # which the table reads as pictures too
    scores = ImageSearch().evaluate(model, task, Chunks(2), ()).scores
    assert scores == {"knn_accuracy": Score(0.0, 3)}


def sequence_of(samples: ArrayImages | CaptionedImages) -> TaskSequence:
    classes = ClassSet((0, 1), ("a", "b"))
    tasks = (Task("cards", classes, samples, Classification(), 0),)
    return TaskSequence("made", (Session(0, "", classes, classes, samples),), tasks)


def test_search_is_judged_besides_and_changes_nothing_else(tiny: Callable[[], OpenClip], engine: Engine) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    plain = sequence_of(ArrayImages(pixels, np.arange(12) % 2, "noise"))
    searched = with_image_search(plain)
    method = Method(tiny())
    (alone,), (both,) = (Judge(engine, each).evaluate(method, 0).verdicts.values() for each in (plain, searched))
    assert both.scores.keys() - alone.scores.keys() == {"image_map", "knn_accuracy"}
    assert {name: both.scores[name] for name in alone.scores} == alone.scores
    assert both.facts == alone.facts
    assert plain.fingerprint() != searched.fingerprint()


def test_what_has_no_labels_is_refused() -> None:
    pictures = ArrayImages(np.zeros((2, 32, 32, 3), np.uint8), np.arange(2), "black")
    with pytest.raises(
        ConfigError, match="image_search=true needs pictures with class labels, which the tasks of made"
    ):
        with_image_search(sequence_of(CaptionedImages(pictures, [["a"], ["b"]])))


def test_numbers_are_means_over_tasks_that_have_come_or_that_nothing_trains_for() -> None:
    table = ScoreTable(3)
    for value in (40.0, 50.0):
        table.append({j: {"image_map": Score(value + 10 * j, 5), "accuracy": Score(1.0, 5)} for j in range(3)})
    made = sequence_of(ArrayImages(np.zeros((2, 32, 32, 3), np.uint8), np.arange(2), "black"))
    for sessions, mean in (((0, 1, 2), 55.0), ((0, 1, None), 60.0), ((0, 0, 0), 60.0), ((0, 2, None), 60.0)):
        sequence = replace(made, tasks=tuple(replace(made.tasks[0], session=session) for session in sessions))
        assert session_numbers(table, sequence.arrived(1)) == {"image_map": mean}
        assert summary(table, sequence.arrived(1)) == {"last_image_map": mean}
