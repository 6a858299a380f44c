"""TaskRes follows the official code's logits, losses and updates; earlier residuals stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everclip.methods.taskres import Taskres
from everclip.methods.zero_shot import ZeroShot
from everclip.types import ClassSet
from tests.methods.test_clip_adapter import EVERY, GOLDEN, golden_data, train
from tests.methods.test_gda import classes, extract, session
from tests.methods.test_tip_adapter import follows


def test_logits_losses_and_updates_follow_the_official_code() -> None:
    backbone, own, _, _ = golden_data()
    expected, method = GOLDEN["taskres"], Taskres(backbone).double()
    method.begin_session(session(own, EVERY), extract)
    follows(method.logits(own.rows[:3], EVERY), expected["logits"])
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-2)
    assert train(method, own, optimizer) == pytest.approx(expected["losses"], abs=1e-7)
    follows(method.logits(own.rows[:3], EVERY), expected["trained"])


def test_before_the_first_step_it_is_zero_shot_and_every_template_counts_by_its_length() -> None:
    backbone, own, _, _ = golden_data()
    method = Taskres(backbone).double()
    method.begin_session(session(own, classes(0, 2)), extract)
    torch.testing.assert_close(method.logits(own.rows, EVERY), ZeroShot(backbone).logits(own.rows, EVERY))
    backbone.tokenize = lambda texts: torch.tensor([int(text[-1]) + (2 if text[0] == "b" else 0) for text in texts])  # type: ignore[method-assign]  # two templates, four texts
    two = ClassSet((0, 1), ("0", "1"), ("a {}", "b {}"))
    wanted = torch.nn.functional.normalize((backbone.table[:2] + backbone.table[2:]) / 2, dim=-1)
    torch.testing.assert_close(method.class_features(two), wanted)


def test_a_later_session_leaves_earlier_residuals_and_unseen_classes_as_they_are() -> None:
    backbone, own, _, _ = golden_data()
    method = Taskres(backbone).double()
    first, second = (own.subset(np.flatnonzero(np.isin(own.labels, ids))) for ids in ([0, 1], [2]))
    for index, (part, new) in enumerate(((first, classes(0, 2)), (second, classes(2, 3)))):
        method.begin_session(session(part, new, index), extract)
        before = method.residuals.rows.detach().clone()
        if index == 0:
            train(method, first.subset([*range(6), *range(6)]), torch.optim.Adam(method.parameters(), lr=0.1))
            assert (method.residuals.rows != before).any(dim=1).all()
    assert (method.num_trainable(), method.num_arriving([2, 1])) == (3 * 24, 24)
    loss = method.loss(second.read([0, 1, 2], lambda image: torch.empty(0)))["cross_entropy"]
    loss.backward()
    grad = method.residuals.rows.grad
    assert grad is not None
    assert not grad[:2].any()
    plain, adapted = (m.class_features(EVERY) for m in (ZeroShot(backbone), method))
    torch.testing.assert_close(adapted[2:], plain[2:])
    assert not torch.allclose(adapted[:2], plain[:2])
