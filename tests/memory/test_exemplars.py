from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.data.images import ArrayImages
from everclip.errors import ConfigError
from everclip.memory.exemplars import (
    class_means,
    first_of_each,
    herding,
    herding_of_each,
    random_of_each,
    reservoir,
    share,
    with_memory,
)
from everclip.types import ClassSet, Session

FEATURES = torch.from_numpy(np.random.default_rng(0).normal((1.0, 0.0), size=(20, 2)))
LABELS = torch.tensor([4, 1, 4, 1, 1, 7])


def greedy(features: Tensor, count: int) -> list[int]:
    """Herding written from the paper: every candidate is tried at every place."""
    points = (features / features.norm(dim=1, keepdim=True)).numpy()
    chosen: list[int] = []
    while len(chosen) < count:
        candidates = [i for i in range(len(points)) if i not in chosen]
        means = [points[[*chosen, i]].mean(axis=0) for i in candidates]
        chosen.append(candidates[int(np.argmin([np.linalg.norm(points.mean(axis=0) - mean) for mean in means]))])
    return chosen


def test_herding_is_the_greedy_choice() -> None:
    assert herding(FEATURES, 12).tolist() == greedy(FEATURES, 12)


def test_a_shorter_choice_is_the_beginning_of_a_longer_one() -> None:
    whole = herding(FEATURES, 50)
    assert sorted(whole.tolist()) == list(range(20))
    assert torch.equal(herding(FEATURES, 7), whole[:7])


def test_lengths_of_features_do_not_matter() -> None:
    lengths = torch.linspace(0.1, 10, 20)[:, None]
    assert torch.equal(herding(FEATURES * lengths, 12), herding(FEATURES, 12))


def test_herding_stays_within_classes() -> None:
    labels = torch.arange(20) % 3
    expected = [np.flatnonzero(labels == c)[greedy(FEATURES[labels == c], 4)] for c in range(3)]
    assert herding_of_each(FEATURES, labels, 4).tolist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize(("count", "expected"), [(1, [1, 0, 5]), (2, [1, 3, 0, 2, 5]), (9, [1, 3, 4, 0, 2, 5])])
def test_the_first_of_every_class(count: int, expected: list[int]) -> None:
    assert first_of_each(LABELS, count).tolist() == expected


def test_a_random_choice_follows_the_draws() -> None:
    draws = torch.tensor([0.5, 0.9, 0.4, 0.2, 0.3, 0.1])
    assert random_of_each(LABELS, draws, 2).tolist() == [3, 4, 2, 0, 5]


def test_a_share_is_rounded_down_and_never_nothing() -> None:
    assert (share(20, 3), share(20, 20)) == (6, 1)
    with pytest.raises(ConfigError, match="memory_size=20 does not hold one picture of each of 21 classes"):
        share(20, 21)


def test_a_reservoir_keeps_everything_until_it_is_full() -> None:
    draws = torch.tensor([0.99, 0.0, 0.0])
    assert reservoir(torch.tensor([0, 1]), 2, draws, 9).tolist() == [0, 1, 2, 3, 4]
    assert reservoir(torch.tensor([0, 1]), 2, draws, 2).tolist() == [4, 1]  # numbers 3 and 4 take place 0 in turn


def test_a_reservoir_does_not_depend_on_the_split_into_sessions() -> None:
    draws = torch.from_numpy(np.random.default_rng(0).random(50))
    first = reservoir(torch.empty(0, dtype=torch.long), 0, draws[:20], 7)
    assert torch.equal(reservoir(first, 20, draws[20:], 7), reservoir(torch.empty(0, dtype=torch.long), 0, draws, 7))


def test_a_reservoir_keeps_every_picture_equally_often() -> None:
    draws = torch.from_numpy(np.random.default_rng(0).random((2000, 30)))
    kept = torch.cat([reservoir(torch.empty(0, dtype=torch.long), 0, row, 6) for row in draws])
    counts = torch.bincount(kept, minlength=30)
    expected = 2000 * 6 / 30
    # 29 degrees of freedom, of which the 99.9 % point is 58.3; without replacement the counts vary by 1 - 6/30 less.
    assert float(((counts - expected) ** 2 / expected).sum()) / (1 - 6 / 30) < 58.3


def test_a_mean_is_of_directions_and_in_the_order_asked_for() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0], [0.0, -2.0]])
    means = class_means(features, torch.tensor([4, 4, 1]), torch.tensor([1, 4]))
    torch.testing.assert_close(means, torch.tensor([[0.0, -1.0], [0.5**0.5, 0.5**0.5]]))


def test_kept_pictures_come_after_the_sessions() -> None:
    images = ArrayImages(np.zeros((3, 2, 2, 3), np.uint8), np.array([0, 1, 1]), "zeros")
    classes = ClassSet((0, 1), ("a", "b"))
    session = Session(1, "s", classes, classes, images.subset([2]))
    assert with_memory(session) is session.train
    memory = Session(1, "s", classes, classes, images.subset([2]), memory=images.subset([0, 1]))
    assert with_memory(memory).labels.tolist() == [1, 0, 1]


def test_the_reservoir_is_the_official_one(golden: Callable[[str], Any]) -> None:
    """Mammoth draws whole numbers once the memory is full; the middle between two is drawn here."""
    expected = golden("exemplars_official")["reservoir"]
    stream = np.random.RandomState(0)
    draws = torch.tensor([0.0 if i < 5 else (stream.randint(0, i + 1) + 0.5) / (i + 1) for i in range(40)])
    first = reservoir(torch.empty(0, dtype=torch.long), 0, draws[:12], 5)
    assert [first.tolist(), reservoir(first, 12, draws[12:], 5).tolist()] == expected
