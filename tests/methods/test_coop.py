from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from everclip.methods.coop import Coop
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


@pytest.mark.parametrize("name", ["coop", "csc"])
def test_two_steps_follow_the_official_code(name: str, tmp_path: Path) -> None:
    method = Coop(official.make_backbone(tmp_path), length=4, class_specific=name == "csc").double()
    tokens = method.context.tokens
    if method.contexts is None:
        official.fill(tokens)
        official.check_steps(method, {"tokens": tokens[0]}, name)
        return
    begin = method.begin_session

    def filled(session: Any, extract: Any) -> None:
        begin(session, extract)
        assert method.contexts is not None
        official.fill(method.contexts.rows.unflatten(1, tokens.shape[1:]))

    method.begin_session = filled  # type: ignore[method-assign]  # rows come with the session
    official.check_steps(method, {"tokens": lambda: method.contexts.rows}, name)  # type: ignore[union-attr]


def test_a_new_class_gets_the_shared_context(tiny: Tiny) -> None:
    torch.manual_seed(0)
    method = Coop(tiny(), length=3)
    old = EVERY.select([0, 1, 2])
    with torch.no_grad():
        before = method.class_features(old)
        method.begin_session(make_session(1), no_extract)
        torch.testing.assert_close(method.class_features(EVERY)[:3], before)
    assert method.num_trainable() == 3 * 96


@pytest.mark.parametrize("words", [None, "a photo of a"])
def test_contexts_of_classes_grow_and_those_of_earlier_ones_stay(tiny: Tiny, words: str | None) -> None:
    method = Coop(tiny(), length=4, words=words, class_specific=True)
    assert not method.open_vocabulary
    assert method.num_trainable() == 0
    for index, count in ((0, 3), (1, 5)):
        method.begin_session(make_session(index), no_extract)
        assert method.num_trainable() == count * 4 * 96
        rows = method.contexts.rows.detach()
        assert rows[-1].equal(rows[-2]) == (words is not None)
        assert float(rows[-1].std()) == pytest.approx(float(method.context.tokens.detach().std()), rel=0.2)
    optimizer = torch.optim.SGD([method.contexts.rows], lr=0.1, momentum=0.9, weight_decay=0.5)
    before = method.contexts.rows.detach().clone()
    method.loss(make_batch([3, 4]))["cross_entropy"].backward()
    optimizer.step()
    method.after_step()
    assert (method.contexts.rows != before).all(dim=1).tolist() == [False, False, False, True, True]
    assert method.contexts.rows[:3].equal(before[:3])
    moved = method.contexts.rows.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [False, False, False, True, True]
