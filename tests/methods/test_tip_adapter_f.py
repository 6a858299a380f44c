"""Tip-Adapter-F follows the official code's losses, updates and logits; what earlier sessions trained stays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.data.loading import SeededBatches
from everclip.methods.tip_adapter import TipAdapter
from everclip.methods.tip_adapter_f import TipAdapterF
from everclip.types import Batch
from tests.methods.given import Features, GivenFeatures
from tests.methods.test_gda import classes, draw, extract, few_shot, session
from tests.methods.test_tip_adapter import EVERY, GOLDEN, SHARPNESS, WEIGHT, follows, views


def make(text: Tensor) -> TipAdapterF:
    return TipAdapterF(GivenFeatures(text), sharpness=SHARPNESS, weight=WEIGHT, views=2).double()


def step(method: TipAdapterF, optimizer: torch.optim.Optimizer, train: Features, rows: list[int]) -> float:
    optimizer.zero_grad()
    loss = method.loss(Batch(train.rows[rows], torch.from_numpy(train.labels[rows]), torch.tensor(rows)))
    loss["cross_entropy"].backward()
    optimizer.step()
    method.after_step()
    return loss["cross_entropy"].item()


def test_losses_updates_and_choice_follow_the_official_code() -> None:
    text, train, validation, test = few_shot()
    expected, method, order = GOLDEN["tip_adapter_f"], make(text), np.random.RandomState(5)
    own = session(train, EVERY, validation=validation)
    method.begin_session(own, views)
    optimizer = torch.optim.AdamW([method.cache.keys], lr=0.02, eps=1e-4, weight_decay=0.01)
    losses = []
    for epoch in range(3):
        rows = order.permutation(20)
        for part, half in enumerate((rows[:10], rows[10:])):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 + math.cos(math.pi * (2 * epoch + part) / 6)) / 2
            losses.append(step(method, optimizer, train, half.tolist()))
        follows(method.logits(test.rows, EVERY), expected["epochs"][epoch])
    assert losses == pytest.approx(expected["losses"], abs=1e-12)
    method.end_session(own, views)
    sharpness, _, weight, _ = method.cache.chosen.tolist()
    assert (sharpness, weight) == pytest.approx(tuple(expected["chosen"]))
    follows(method.logits(test.rows, EVERY), expected["logits"])


def test_before_the_first_step_it_is_tip_adapter() -> None:
    text, train, _, test = few_shot()
    trained, plain = make(text), TipAdapter(GivenFeatures(text), sharpness=1.0, weight=2.0, views=2).double()
    trained.begin_session(session(train, EVERY), views)
    trained.end_session(session(train, EVERY), views)  # nothing to choose by that the keys do not know
    plain.end_session(session(train, EVERY), views)
    torch.testing.assert_close(trained.logits(test.rows, EVERY), plain.logits(test.rows, EVERY))


def test_a_later_session_leaves_earlier_keys_as_they_are() -> None:
    text, train, _, _ = few_shot()
    method = make(text)
    first, second = (train.subset(np.flatnonzero(np.isin(train.labels, ids))) for ids in ([0, 1], [2, 3]))
    method.begin_session(session(first, classes(0, 2)), extract)
    method.begin_session(session(second, classes(2, 4), 1), extract)
    assert (method.num_trainable(), method.num_arriving([2, 2], [10, 10])) == (20 * 24, 10 * 24)
    before = method.cache.keys.detach().clone()
    step(method, torch.optim.AdamW(method.parameters(), lr=0.1, weight_decay=0.1), second, [0, 5])
    assert torch.equal(method.cache.keys[:10], before[:10])
    assert (method.cache.keys[10:] != before[10:]).any(dim=1).all()


def test_one_shot_and_batch_4_trains_the_key_of_every_picture_in_an_epoch() -> None:
    train = draw(np.random.RandomState(2), np.eye(7), 1, 0.3)
    unsure = GivenFeatures(0.01 * torch.eye(7).double())  # so that no gradient is lost in rounding
    method = TipAdapterF(unsure, sharpness=1.0, weight=1.0, views=1).double()
    method.begin_session(session(train, classes(0, 7)), extract)
    before = method.cache.keys.detach().clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    for batch in SeededBatches(7, 4, (0, 0, 0), steps=2):
        step(method, optimizer, train, batch)
    assert (method.cache.keys != before).any(dim=1).all()
