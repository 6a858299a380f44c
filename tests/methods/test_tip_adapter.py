"""Tip-Adapter follows the official code's own numbers; sessions give what their union gives.

tests/golden/cache_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.methods.tip_adapter import TipAdapter
from everclip.methods.zero_shot import ZeroShot
from everclip.modules.feature_cache import Grid
from everclip.types import Samples
from tests.methods.given import Features, GivenFeatures
from tests.methods.test_gda import classes, draw, extract, few_shot, session, unit

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cache_official.json").read_text())
EVERY = classes(0, 4)


def grid(low: float, high: float, steps: int, start: float = 1.0) -> Grid:
    return {"start": start, "low": low, "high": high, "steps": steps}


SHARPNESS, WEIGHT = grid(0.1, 30.0, 30), grid(0.1, 10.0, 20, 2.0)


def views(
    samples: Samples, encode: Callable[[Tensor], Tensor], *, as_trained: bool = False, number: int = 0
) -> tuple[Tensor, Tensor]:
    """Training pictures in two views, whose features differ in length."""
    assert isinstance(samples, Features)
    rows = samples.rows
    if as_trained:
        noise = np.random.RandomState(7 + number).standard_normal(rows.shape)
        rows = unit(rows + 0.1 * torch.from_numpy(noise)) * (1 + number)
    return encode(rows), torch.from_numpy(samples.labels)


def follows(logits: Tensor, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=0, atol=1e-7)  # ten digits are kept


def test_logits_and_choice_follow_the_official_code() -> None:
    text, train, validation, test = few_shot()
    expected = GOLDEN["tip_adapter"]
    fixed = TipAdapter(GivenFeatures(text), sharpness=1.0, weight=2.0, views=2).double()
    fixed.end_session(session(train, EVERY), views)
    follows(fixed.logits(validation.rows[:3], EVERY), expected["start"])
    method = TipAdapter(GivenFeatures(text), sharpness=SHARPNESS, weight=WEIGHT, views=2).double()
    method.end_session(session(train, EVERY, validation=validation), views)
    sharpness, _, weight, _ = method.cache.chosen.tolist()
    assert (sharpness, weight) == pytest.approx(tuple(expected["chosen"]))
    follows(method.logits(test.rows, EVERY), expected["logits"])


def make(text: Tensor, sharpness: float = 5.0, weight: float = 3.0) -> TipAdapter:
    return TipAdapter(GivenFeatures(text), sharpness=sharpness, weight=weight, views=1).double()


def test_without_weight_it_is_zero_shot() -> None:
    text, train, _, test = few_shot()
    method = make(text, weight=0.0)
    method.end_session(session(train, EVERY), extract)
    assert torch.equal(method.logits(test.rows, EVERY), ZeroShot(GivenFeatures(text)).logits(test.rows, EVERY))


@pytest.mark.parametrize("groups", [[[2, 3], [0, 1]], [[3], [0], [2], [1]]])
def test_sessions_give_what_their_union_gives(groups: list[list[int]]) -> None:
    text, train, _, test = few_shot()
    whole, apart = make(text), make(text)
    whole.end_session(session(train, EVERY), extract)
    for index, group in enumerate(groups):
        own = train.subset(np.flatnonzero(np.isin(train.labels, group)))
        apart.end_session(session(own, EVERY.select(group), index), extract)
    torch.testing.assert_close(apart.logits(test.rows, EVERY), whole.logits(test.rows, EVERY), rtol=0, atol=1e-12)


def test_a_class_has_its_say_however_many_keys_it_has() -> None:
    text, train, _, test = few_shot()
    once, twice = make(text), make(text)
    once.end_session(session(train, EVERY), extract)
    twice.end_session(session(train, EVERY), extract)
    again = replace(session(train.subset(range(5)), classes(0, 1), 1), new=classes(0, 0), returning=classes(0, 1))
    twice.end_session(again, extract)  # the same five pictures of class 0
    assert len(twice.cache.labels) == 25
    torch.testing.assert_close(twice.logits(test.rows, EVERY), once.logits(test.rows, EVERY), rtol=0, atol=1e-12)


def test_between_a_seen_class_and_an_unseen_one_the_text_decides() -> None:
    text, train, _, test = few_shot()
    method = make(text)
    method.end_session(session(train.subset(np.flatnonzero(train.labels < 2)), classes(0, 2)), extract)
    logits, plain = method.logits(test.rows, EVERY), 100 * test.rows @ text.T
    best = plain[:, :2].argmax(dim=1)
    for row, rival in enumerate(best.tolist()):
        torch.testing.assert_close(logits[row, 2:] - logits[row, rival], plain[row, 2:] - plain[row, rival])
    unseen = EVERY.select([2, 3])
    torch.testing.assert_close(method.logits(test.rows, unseen), plain[:, 2:])


def test_without_validation_pictures_the_settings_are_cross_validated() -> None:
    text, train, _, _ = few_shot()
    grids = grid(1.0, 25.0, 3), grid(0.5, 60.5, 3)
    method = TipAdapter(GivenFeatures(text), sharpness=grids[0], weight=grids[1], views=1).double()
    method.end_session(session(train, EVERY), extract)
    pairs = list(product((1.0, 9.0, 17.0), (0.5, 20.5, 40.5)))
    right = dict.fromkeys(pairs, 0)
    rank = np.arange(len(train.labels)) % 5
    for fold, (sharpness, weight) in product(range(4), pairs):
        kept, held = (train.subset(np.flatnonzero(mask)) for mask in (rank % 4 != fold, rank % 4 == fold))
        one = make(text, sharpness, weight)
        one.cache.shots += 5  # of the whole session
        one.end_session(session(kept, EVERY), extract)
        right[sharpness, weight] += int((one.logits(held.rows, EVERY).argmax(1).numpy() == held.labels).sum())
    best = max(pairs, key=lambda pair: right[pair])
    assert method.cache.chosen.tolist() == [best[0], 0.0, best[1], 0.0]
    assert len(set(right.values())) > 1


def test_one_picture_of_each_class_leaves_the_settings_at_their_start(caplog: pytest.LogCaptureFixture) -> None:
    text, train, _, _ = few_shot()
    method = TipAdapter(GivenFeatures(text), sharpness=SHARPNESS, weight=WEIGHT, views=1)
    with caplog.at_level(logging.WARNING):
        method.end_session(session(train.subset([0, 5, 10, 15]), EVERY), extract)
    assert "method.sharpness, method.weight: s0 has one picture of each class" in caplog.text
    assert method.cache.chosen.tolist() == [1.0, 0.0, 2.0, 0.0]


def test_the_test_set_never_chooses() -> None:
    text, train, validation, _ = few_shot()
    seen: list[Samples] = []

    def watched(samples: Samples, encode: Callable[[Tensor], Tensor], **how: int) -> tuple[Tensor, Tensor]:
        seen.append(samples)
        return extract(samples, encode)

    backbone = GivenFeatures(torch.cat([text, text[:2]]))
    later = session(draw(np.random.RandomState(3), np.eye(24)[:2], 5, 0.1), classes(4, 6), 1)
    for judges in (None, validation):
        method = TipAdapter(backbone, sharpness=grid(0.1, 30.0, 5), weight=WEIGHT, views=1).double()
        method.end_session(session(train, EVERY, validation=judges), watched)
        before = method.cache.chosen.clone()
        method.end_session(later, watched)  # chooses nothing anew
        assert torch.equal(method.cache.chosen, before)
    assert {id(samples) for samples in seen} == {id(train), id(validation), id(later.train)}


def test_a_grid_ends_after_it_begins() -> None:
    with pytest.raises(ValueError, match=r"weight.high=0.1 must be above weight.low=0.1"):
        TipAdapter(GivenFeatures(few_shot()[0]), sharpness=1.0, weight=grid(0.1, 0.1, 3))
