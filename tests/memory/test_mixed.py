from __future__ import annotations

import numpy as np
import pytest

from everclip.errors import ConfigError
from everclip.memory.mixed import MixedBatches

NEW, EARLIER = np.arange(100, 130), (np.arange(50), np.arange(50, 55), np.arange(55, 100))


def test_every_batch_has_its_number_of_distinct_new_pictures() -> None:
    draws = MixedBatches(7, 0.5, NEW, EARLIER)
    for seed in range(50):
        batch = draws(np.random.default_rng(seed), 32)
        assert len(batch) == 32
        assert len(set(batch[:10])) == 10
        assert set(batch[:10]) <= set(NEW)
        assert max(batch[10:]) < 100


def test_earlier_pictures_come_from_every_session_and_picture_alike() -> None:
    draws, stream = MixedBatches(1, 1.0, NEW, EARLIER), np.random.default_rng(0)
    drawn = np.concatenate([draws(stream, 40)[20:] for _ in range(500)])
    sessions = np.bincount(np.searchsorted([50, 55, 100], drawn, side="right"))
    assert ((sessions - 10_000 / 3) ** 2 / (10_000 / 3)).sum() < 9.2  # chi-squared, 2 degrees of freedom, p = 0.01
    few = np.bincount(drawn)[50:55]
    assert ((few - few.mean()) ** 2 / few.mean()).sum() < 13.3  # 4 degrees of freedom


def test_fewer_new_pictures_than_places_come_again() -> None:
    batch = MixedBatches(1, 1.0, NEW[:3], EARLIER)(np.random.default_rng(0), 32)
    assert set(batch[:16]) == set(NEW[:3])


@pytest.mark.parametrize(("size", "ratio"), [(1, 1.0), (8, 0.1), (8, 1e20)])
def test_a_batch_without_either_kind_is_refused(size: int, ratio: float) -> None:
    with pytest.raises(ConfigError, match=f"of a batch of {size}, method.new_per_old="):
        MixedBatches(1, ratio, NEW, EARLIER)(np.random.default_rng(0), size)
