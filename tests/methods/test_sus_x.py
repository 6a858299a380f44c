"""TIP-X follows the official code's choice and logits; support pictures are those of a class's name, or the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.data.references import none
from everclip.methods.sus_x import SusX
from everclip.methods.tip_adapter import TipAdapter
from everclip.types import Reference
from tests.methods.given import Features, GivenFeatures
from tests.methods.test_gda import draw, extract, session, unit
from tests.methods.test_tip_adapter import EVERY, GOLDEN, follows, grid

GRIDS = {"weight": grid(0.1, 50.0, 5), "sharpness": grid(1.0, 50.0, 5), "kl_weight": grid(0.1, 30.0, 5)}


def support() -> tuple[Tensor, Features, Features, Tensor]:
    """Texts, support features, features to judge by, and captions of the golden run."""
    stream = np.random.RandomState(0)
    means = stream.standard_normal((4, 24))
    text = unit(means + 1.5 * stream.standard_normal((4, 24)))
    train, _, _ = (draw(stream, means, count, 1.2) for count in (5, 10, 1))
    judged = draw(stream, means, 25, 1.2)
    return text, train, judged, unit(means[train.labels] + 1.5 * stream.standard_normal((20, 24)))


def make(text: Tensor, reference: Reference | None = None, **options: Any) -> SusX:
    settings = GRIDS | {"views": 1} | options
    return SusX(GivenFeatures(text), reference=reference or none(), **settings).double()


def test_choice_and_logits_follow_the_official_code() -> None:
    text, train, judged, _ = support()
    method, expected = make(text), GOLDEN["sus_x"]
    method.end_session(session(train, EVERY, validation=judged), extract)
    sharpness, _, weight, kl_weight = method.cache.chosen.tolist()
    assert [weight, sharpness, kl_weight] == pytest.approx(expected["chosen"])
    follows(method.logits(judged.rows[::20], EVERY), expected["logits"])


def test_divergences_are_those_of_the_definition() -> None:
    text, train, judged, _ = support()
    method = make(text, weight=0.0, sharpness=1.0, kl_weight=1.0)
    method.end_session(session(train, EVERY), extract)
    own = method.cache.support(EVERY, text)
    seen, kept = ((rows @ text.T / 0.5).softmax(dim=1) for rows in (judged.rows[:1], train.rows))
    wanted = (seen * (seen / kept).log()).sum(dim=1)
    torch.testing.assert_close(own.divergence(judged.rows[:1])[0], wanted)
    torch.testing.assert_close(own.divergence(train.rows).diagonal(), torch.zeros(20).double(), rtol=0, atol=1e-12)


def test_a_divergence_takes_away_and_without_it_it_is_tip_adapter() -> None:
    text, train, judged, _ = support()
    fixed = {"weight": 2.0, "sharpness": 5.0}
    plain = TipAdapter(GivenFeatures(text), **fixed, views=1).double()
    for method in (without := make(text, kl_weight=0.0, **fixed), plain):
        method.end_session(session(train, EVERY), extract)
    torch.testing.assert_close(without.logits(judged.rows, EVERY), plain.logits(judged.rows, EVERY))
    near = make(text, kl_weight=5.0, weight=0.0, sharpness=1.0)
    near.end_session(session(train, EVERY), extract)
    gained = near.logits(train.rows, EVERY) - 100 * train.rows @ text.T
    right = (gained.argmax(dim=1).numpy() == train.labels).mean()
    assert right > 0.6  # what is alike is in the class


def test_range_is_measured_on_what_settings_are_chosen_by() -> None:
    text, train, judged, _ = support()
    method = make(text, weight=1.0, sharpness=2.0, kl_weight=1.0)
    method.end_session(session(train, EVERY, validation=judged), extract)
    own = method.cache.support(EVERY, text)
    factor, offset = method.cache.rescale
    near, rescaled = own.affinity(judged.rows, 0.0), factor * own.divergence(judged.rows) + offset
    torch.testing.assert_close(torch.stack(rescaled.aminmax()), torch.stack(near.aminmax()))


def test_support_pictures_are_found_without_labels() -> None:
    text, train, judged, _ = support()
    pool = Features(torch.cat([train.rows, judged.rows]), np.zeros(120, np.int64))
    method = make(text, Reference(pool, ()), per_class=3)
    method.end_session(session(train, EVERY), extract)
    near = text @ pool.rows.T
    for column in range(4):
        own = method.cache.keys[method.cache.labels == column]
        torch.testing.assert_close(own, pool.rows[near[column].topk(3).indices])


def test_pictures_named_after_a_class_are_its_support() -> None:
    text, train, _, _ = support()
    names = ("1", "elsewhere", "1", *["0"] * 17)
    method = make(text, Reference(Features(train.rows, np.zeros(20, np.int64)), (), names), per_class=4)
    method.end_session(session(train, EVERY), extract)
    counts = torch.bincount(method.cache.labels).tolist()
    assert counts == [4, 2, 4, 4]  # nothing is named 2 or 3: the nearest of all
    mine = method.cache.keys[method.cache.labels == 1]
    assert {tuple(row) for row in mine.tolist()} == {tuple(train.rows[row].tolist()) for row in (0, 2)}


def test_one_shot_judges_what_a_reference_set_found() -> None:
    text, train, judged, _ = support()
    method = make(text, Reference(judged, ()), per_class=3)
    method.end_session(session(train.subset([0, 5, 10, 15]), EVERY), extract)
    assert method.cache.chosen.tolist() != [1.0, 0.0, 1.0, 1.0]
