"""CLIP-Adapter follows the official code's logits, losses and updates.

tests/golden/residual_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.methods.base import Method
from everclip.methods.clip_adapter import ClipAdapter
from everclip.methods.zero_shot import ZeroShot
from everclip.types import Batch
from tests.methods.given import Features, GivenFeatures
from tests.methods.test_gda import classes, extract, session
from tests.methods.test_tip_adapter import follows

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "residual_official.json").read_text())
EVERY = classes(0, 4)


class RawFeatures(GivenFeatures):
    """Features and texts of any length, which become 1 when asked for."""

    def encode_image(self, images: Tensor, edit: Any = None, *, normalize: bool = True, project: bool = True) -> Tensor:
        return torch.nn.functional.normalize(images, dim=-1) if normalize else images

    def encode_text(self, tokens: Tensor, edit: Any = None, *, normalize: bool = True) -> Tensor:
        rows = self.table[tokens]
        return torch.nn.functional.normalize(rows, dim=-1) if normalize else rows


def golden_data() -> tuple[RawFeatures, Features, Tensor, Tensor]:
    """Texts, features, and the matrices of the adapter of the golden run."""
    stream = np.random.RandomState(0)
    text, rows, down, up = (
        factor * torch.from_numpy(stream.standard_normal(shape))
        for factor, shape in ((3, (4, 24)), (2, (12, 24)), (1, (6, 24)), (0.3, (24, 6)))
    )
    return RawFeatures(text), Features(rows, np.arange(12) % 4), down, up


def train(method: Method, own: Features, optimizer: torch.optim.Optimizer) -> list[float]:
    """The losses of four steps on two batches in turn."""
    losses = []
    for step in range(4):
        rows = list(range(6 * (step % 2), 6 * (step % 2) + 6))
        batch = Batch(own.rows[rows], torch.from_numpy(own.labels[rows]), torch.tensor(rows))
        optimizer.zero_grad()
        loss = method.loss(batch)["cross_entropy"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_logits_losses_and_updates_follow_the_official_code() -> None:
    backbone, own, down, up = golden_data()
    expected, method = GOLDEN["clip_adapter"], ClipAdapter(backbone).double()
    with torch.no_grad():
        for parameter, value in zip(method.parameters(), (down, up), strict=True):
            parameter.copy_(value)
    method.begin_session(session(own, EVERY), extract)
    follows(method.logits(own.rows[:3], EVERY), expected["logits"])
    optimizer = torch.optim.SGD(method.parameters(), lr=2e-3, momentum=0.9, weight_decay=5e-4)
    assert train(method, own, optimizer) == pytest.approx(expected["losses"], abs=1e-7)
    follows(method.logits(own.rows[:3], EVERY), expected["trained"])


def test_without_a_ratio_it_is_zero_shot() -> None:
    backbone, own, _, _ = golden_data()
    logits = ClipAdapter(backbone, ratio=0.0).double().logits(own.rows, EVERY)
    torch.testing.assert_close(logits, ZeroShot(backbone).logits(own.rows, EVERY))


def test_new_classes_come_into_the_same_adapter() -> None:
    backbone, own, _, _ = golden_data()
    for label_space, compared in (("current", [2, 3]), ("seen", [0, 1, 2, 3])):
        method = ClipAdapter(backbone, label_space=label_space).double()  # type: ignore[arg-type]  # one of both
        method.begin_session(session(own, EVERY.select([2, 3]), 1), extract)
        assert list(method.classes.ids) == compared
        assert method.num_arriving([2, 2], [6, 6]) == 0


def test_it_trains_as_many_values_as_published() -> None:
    assert ClipAdapter(GivenFeatures(torch.zeros(1, 512))).num_trainable() == 131_072
