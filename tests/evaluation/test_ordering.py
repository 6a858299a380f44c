"""Scores of pictures for the text of their class, against their values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everclip.data.ordered import OrderedImages
from everclip.evaluation.ordering import Ordering
from everclip.types import ClassSet, Task
from tests.evaluation.conftest import Chunks, Table
from tests.methods.given import Features


def test_every_class_is_ordered_by_its_own_text_and_counts_alike() -> None:
    angles = torch.tensor([0.1, 0.2, 0.6, 0.3, 0.5, 0.9])  # cosines fall with them
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    model = Table(features, torch.eye(2))
    # For text 0 pictures come as 0, 1, 2, and so are the values; for text 1 as 5, 4, 3, the values as 4, 5, 3.
    pictures = Features(torch.arange(6.0)[:, None], np.array([4, 4, 4, 9, 9, 9]))
    samples = OrderedImages(pictures, np.array([8.0, 7.0, 3.0, 1.0, 6.0, 5.0]))
    task = Task("t", ClassSet((4, 9), ("0", "1")), samples, Ordering(), 0)
    scores = Ordering().evaluate(model, task, Chunks(2), ()).scores  # type: ignore[arg-type]  # a model in brief
    assert scores["srcc"].value == pytest.approx((100 + 50) / 2)
    own = torch.cat([angles[:3].cos(), angles[3:].sin()])
    errors = (own - torch.tensor([8.0, 7.0, 3.0, 1.0, 6.0, 5.0])).abs()
    assert scores["mae"].value == pytest.approx(float(errors.mean()), abs=1e-6)
    linear = [np.corrcoef(own[part], samples._values[part])[0, 1] for part in (slice(0, 3), slice(3, 6))]
    assert scores["plcc"].value == pytest.approx(100 * np.mean(linear), abs=1e-4)
    assert scores["srcc"].count == 6
