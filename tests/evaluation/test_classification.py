"""Accuracy, what a sample is compared with, and which session it was taken for."""

from __future__ import annotations

import torch

from everclip.evaluation.classification import Classification, over_views
from everclip.types import ClassSet, Task
from tests.evaluation.conftest import Chunks, Table
from tests.evaluation.test_retrieval import Numbers

SEEN = (ClassSet((0, 1), ("0", "1")), ClassSet((2, 3), ("2", "3")))


def test_accuracy_and_the_sessions_samples_were_taken_for() -> None:
    # Sample 3 looks like class 0 first, like class 2 next.
    looks = torch.eye(4)
    looks[3] = torch.tensor([1.0, 0.0, 0.9, 0.0])
    task = Task("made", SEEN[1], Numbers(4), Classification("seen"))
    verdict = Classification("seen").evaluate(Table(looks, torch.eye(4)), task, Chunks(3), SEEN)
    assert (verdict.scores["accuracy"].value, verdict.scores["accuracy"].count) == (75.0, 4)
    assert verdict.facts == {"predicted": [3, 1]}


def test_a_tasks_own_classes_or_all_seen_are_compared() -> None:
    task = Task("made", SEEN[1], Numbers(4), Classification("task"))
    assert Classification("task").candidates(task, SEEN) == SEEN[1]
    assert Classification("seen").candidates(task, SEEN) == ClassSet.union(SEEN)
    assert [Classification(kind).identity for kind in ("seen", "task")] == ["seen", "task"]  # parts of fingerprints


def test_probabilities_are_averaged_over_views() -> None:
    logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 2.0], [0.0, 0.0, 2.0]]])
    expected = logits.softmax(dim=-1).mean(dim=1)
    for shape in ((2, 2, 3), (2, 2, 3, 1, 1, 1)):  # features; clips of one frame
        found = over_views(lambda images: images.flatten(1))(logits.reshape(shape))
        torch.testing.assert_close(found.exp(), expected)
    single = over_views(lambda images: images.flatten(1))(logits[:, 0].reshape(2, 3, 1, 1))
    assert single.equal(logits[:, 0])  # pictures stay as they are
