"""GDA follows the official code's own numbers; sessions give what their union gives.

tests/golden/gda_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.errors import ConfigError
from everclip.methods.gda import Gda
from everclip.methods.zero_shot import ZeroShot
from everclip.modules.gaussians import ClassGaussians, discriminant
from everclip.training.evaluation import check_fit
from everclip.types import ClassSet, Samples, Session, TaskSequence
from tests.methods.given import Features, GivenFeatures

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "gda_official.json").read_text())
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def unit(values: Any) -> Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(values), dim=-1)


def draw(stream: np.random.RandomState, means: Any, count: int, noise: float) -> Features:
    labels = np.repeat(np.arange(len(means)), count)
    return Features(unit(means[labels] + noise * stream.standard_normal((len(labels), means.shape[1]))), labels)


def classes(start: int, stop: int) -> ClassSet:
    return ClassSet(tuple(range(start, stop)), tuple(str(index) for index in range(start, stop)))


def extract(
    samples: Samples, encode: Callable[[Tensor], Tensor], *, as_trained: bool = False, number: int = 0
) -> tuple[Tensor, Tensor]:
    assert isinstance(samples, Features)
    return encode(samples.rows), torch.from_numpy(samples.labels)


def session(train: Features, own: ClassSet, index: int = 0, validation: Features | None = None) -> Session:
    return Session(index, f"s{index}", own, classes(0, own.ids[-1] + 1), train, validation=validation)


def few_shot() -> tuple[Tensor, Features, Features, Features]:
    """Texts, training, validation and test features of the golden run."""
    stream = np.random.RandomState(0)
    means = stream.standard_normal((4, 24))
    text = unit(means + 1.5 * stream.standard_normal((4, 24)))
    return (text, *(draw(stream, means, count, 1.2) for count in (5, 10, 1)))


def official(weight: float) -> float:
    """A weight of the code's on 20 features of width 24; see the module's docstring."""
    return weight * 24 / 19


def test_few_shots_follow_the_official_code() -> None:
    text, train, validation, test = few_shot()
    method = Gda(GivenFeatures(text), weights=[official(weight) for weight in GRID])
    method.end_session(session(train, classes(0, 4), validation=validation), extract)
    expected = GOLDEN["few_shot"]
    assert float(method.chosen) == pytest.approx(official(expected["chosen"]))
    prior = expected["chosen"] * np.log(1 / 4)  # of the code's, the same for all classes
    logits = method.logits(test.rows, classes(0, 4))
    np.testing.assert_allclose(logits + prior, expected["logits"], rtol=0, atol=1e-7)  # ten digits are kept
    fixed = Gda(GivenFeatures(text), weight=official(1.0))
    fixed.end_session(session(train, classes(0, 4)), extract)
    logits = fixed.logits(validation.rows[:3], classes(0, 4))
    np.testing.assert_allclose(logits + np.log(1 / 4), expected["at_1"], rtol=0, atol=1e-7)  # ten digits are kept


def test_base_to_novel_follows_the_official_code() -> None:
    stream = np.random.RandomState(1)
    means = stream.standard_normal((5, 512))
    text = unit(means + 40.0 * stream.standard_normal((5, 512)))
    train, validation = (draw(stream, means[:3], count, 6.0) for count in (30, 10))
    test, novel = draw(stream, means[:3], 1, 2.0), draw(stream, means[3:], 2, 2.0)
    method = Gda(GivenFeatures(text), precision="mean", unseen="neighbours")
    method.end_session(session(train, classes(0, 3), validation=validation), extract)
    expected = GOLDEN["base_to_novel"]
    weight = expected["chosen"]
    assert float(method.chosen) == weight
    for rows, own, key in ((test.rows, classes(0, 3), "base"), (novel.rows, classes(3, 5), "novel")):
        logits = method.logits(rows, own) + weight * np.log(1 / len(own))
        np.testing.assert_allclose(logits, expected[key], rtol=5e-8)  # kept features are float32


def test_without_a_weight_it_is_zero_shot() -> None:
    text, train, _, test = few_shot()
    method = Gda(GivenFeatures(text), weight=0.0)
    method.end_session(session(train, classes(0, 4)), extract)
    plain = ZeroShot(GivenFeatures(text))
    assert torch.equal(method.logits(test.rows, classes(0, 4)), plain.logits(test.rows, classes(0, 4)))


@pytest.mark.parametrize("groups", [[[0, 1, 2, 3]], [[2, 3], [0, 1]], [[0], [1], [2], [3]]])
def test_sessions_give_what_their_union_gives(groups: list[list[int]]) -> None:
    text, train, _, test = few_shot()
    whole, apart = (Gda(GivenFeatures(text), weight=1.0) for _ in range(2))
    whole.end_session(session(train, classes(0, 4)), extract)
    for index, group in enumerate(groups):
        own = classes(0, 4).select(group)
        apart.end_session(session(train.subset(np.flatnonzero(np.isin(train.labels, group))), own, index), extract)
    every = classes(0, 4)
    torch.testing.assert_close(apart.logits(test.rows, every), whole.logits(test.rows, every), rtol=0, atol=1e-9)


def test_a_class_that_comes_again_is_fitted_to_all_its_features() -> None:
    _, train, more, _ = few_shot()
    parts, union = ClassGaussians(24), ClassGaussians(24)
    for part in (train, more):
        parts.add(part.rows, torch.from_numpy(part.labels))
    labels = torch.from_numpy(np.concatenate([train.labels, more.labels]))
    union.add(torch.cat([train.rows, more.rows]), labels)
    for kept in ("counts", "means", "scatter"):
        torch.testing.assert_close(getattr(parts, kept), getattr(union, kept), rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match="Gda learns a class in one session"):
        check_fit(Gda(GivenFeatures(torch.zeros(4, 24)), precision="mean"), returning(train), "none")


def returning(train: Features) -> TaskSequence:
    """A sequence whose second session has the classes of the first again."""
    first = session(train, classes(0, 4))
    again = replace(first, index=1, new=classes(0, 0), returning=classes(0, 4))
    return TaskSequence("again", (first, again), ())


def test_many_features_give_the_gaussians_they_were_drawn_from() -> None:
    stream = np.random.RandomState(3)
    factor, means = stream.standard_normal((3, 3)), stream.standard_normal((2, 3))
    labels = np.arange(200_000) % 2
    rows = torch.from_numpy(means[labels] + stream.standard_normal((len(labels), 3)) @ factor)
    fitted = ClassGaussians(3)
    fitted.add(rows, torch.from_numpy(labels))
    precision = torch.linalg.inv(torch.from_numpy(factor.T @ factor))
    weights, biases = discriminant(fitted.rows([0, 1]), fitted.precision("pooled"))
    exact, offsets = discriminant(torch.from_numpy(means), precision)
    torch.testing.assert_close(weights, exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(biases, offsets, rtol=0.05, atol=0.05)


def test_between_a_seen_class_and_an_unseen_one_the_text_decides() -> None:
    text, train, _, test = few_shot()
    method = Gda(GivenFeatures(text), weight=1.0)
    seen = train.subset(np.flatnonzero(train.labels < 2))
    method.end_session(session(seen, classes(0, 2)), extract)
    logits, plain = method.logits(test.rows, classes(0, 4)), 100 * test.rows @ text.T
    best = plain[:, :2].argmax(dim=1)
    for row, rival in enumerate(best.tolist()):
        torch.testing.assert_close(logits[row, 2:] - logits[row, rival], plain[row, 2:] - plain[row, rival])


def test_one_picture_of_each_class_tells_nothing_of_their_spread(caplog: pytest.LogCaptureFixture) -> None:
    text, train, _, test = few_shot()
    method = Gda(GivenFeatures(text))
    with caplog.at_level(logging.WARNING):
        method.end_session(session(train.subset([0, 5, 10, 15]), classes(0, 4)), extract)
    assert "one picture of each class" in caplog.text
    torch.testing.assert_close(method.logits(test.rows, classes(0, 4)), 100 * test.rows @ text.T)


def test_without_validation_pictures_the_weight_is_cross_validated() -> None:
    text, train, _, _ = few_shot()
    method = Gda(GivenFeatures(text), views=2)
    method.end_session(session(train, classes(0, 4)), extract)
    right = dict.fromkeys(GRID, 0)
    rank = np.arange(len(train.labels)) % 5
    for fold in range(4):
        kept, held = (train.subset(np.flatnonzero(mask)) for mask in (rank % 4 != fold, rank % 4 == fold))
        for weight in GRID:
            one = Gda(GivenFeatures(text), weight=weight, views=2)
            one.end_session(session(kept, classes(0, 4)), extract)
            right[weight] += int((one.logits(held.rows, classes(0, 4)).argmax(1).numpy() == held.labels).sum())
    assert float(method.chosen) == max(GRID, key=lambda weight: right[weight])
    assert len(set(right.values())) > 1


def shared_out(features: Tensor, text: Tensor, train: Features, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and scatter by the formulas of expectation maximisation, at weight 1, in numpy."""
    z, base = features.numpy(), train.rows.numpy()
    zero_shot = 100 * z @ text.numpy().T

    def shares(scores: np.ndarray) -> np.ndarray:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    known, own = np.concatenate([base, z]), np.eye(4)[train.labels]
    gamma = shares(zero_shot)
    for step in range(steps + 1):
        whole = np.concatenate([own, gamma])
        means = whole.T @ known / whole.sum(axis=0)[:, None]
        apart = known[:, None] - means
        scatter = np.einsum("nk,nkd,nke->de", whole, apart, apart)
        if step < steps:
            spread = scatter / (len(known) - 1)
            precision = np.linalg.inv(spread + np.trace(spread) / (len(known) - 1) * np.eye(24))
            weights = means @ precision
            gamma = shares(zero_shot + z @ weights.T - (weights * means).sum(axis=1) / 2)
    return means, scatter


@pytest.mark.parametrize("labelled", [True, False])
def test_pictures_without_labels_are_shared_out(labelled: bool) -> None:
    text, train, more, _ = few_shot()
    train = train if labelled else train.subset([])
    hidden = Features(more.rows, np.full(len(more.rows), -1))
    own = replace(session(train, classes(0, 4)), unlabelled=hidden)
    own = own if labelled else replace(own, without_labels=classes(0, 4))
    method = Gda(GivenFeatures(text), weight=1.0, em_steps=3)
    method.begin_session(own, extract)
    method.end_session(own, extract)
    means, scatter = shared_out(more.rows, text, train, 3)
    np.testing.assert_allclose(method.gaussians.rows(range(4)), means, rtol=0, atol=1e-9)
    np.testing.assert_allclose(method.gaussians.scatter, scatter, rtol=0, atol=1e-9)
    right = [
        (m.logits(more.rows, classes(0, 4)).argmax(1).numpy() == more.labels).mean() for m in (method, plain(text))
    ]
    assert right[0] > right[1]


def plain(text: Tensor) -> ZeroShot:
    return ZeroShot(GivenFeatures(text))


def test_whole_shares_are_labels() -> None:
    _, train, more, _ = few_shot()
    shared, whole = ClassGaussians(24), ClassGaussians(24)
    for fitted in (shared, whole):
        fitted.add(train.rows, torch.from_numpy(train.labels))
    shared.add_shares(more.rows, torch.eye(4)[torch.from_numpy(more.labels)], range(4))
    whole.add(more.rows, torch.from_numpy(more.labels))
    for kept in ("ids", "counts", "means", "scatter"):
        torch.testing.assert_close(getattr(shared, kept), getattr(whole, kept), rtol=0, atol=1e-12)


def test_a_class_without_any_share_spoils_no_other() -> None:
    _, _, more, _ = few_shot()
    fitted, shares = ClassGaussians(24), torch.zeros(len(more), 5)
    shares[:, 0] = 1  # what a softmax gives where the others are far behind
    for _ in range(2):
        fitted.add_shares(more.rows, shares, range(5))
    assert fitted.counts.tolist() == pytest.approx([2 * len(more), 0, 0, 0, 0])
    assert fitted.precision("pooled").isfinite().all()
    torch.testing.assert_close(fitted.means[0], more.rows.double().mean(dim=0))


def test_without_labels_the_weight_is_to_be_given() -> None:
    text, train, *_ = few_shot()
    nothing = replace(session(train.subset([]), classes(0, 4)), unlabelled=train, without_labels=classes(0, 4))
    with pytest.raises(ConfigError, match=r"method\.weight: s0 has no pictures with labels to choose it by"):
        Gda(GivenFeatures(text), em_steps=1).begin_session(nothing, extract)
    with pytest.raises(ValueError, match="em_steps needs precision=pooled"):
        Gda(GivenFeatures(text), em_steps=1, precision="mean")
