"""Our RAIL follows the official code's own numbers; the recursion gives the joint solution.

tests/golden/rail_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from everclip.config.checks import check_group, check_values
from everclip.config.schema import GROUPS
from everclip.errors import ConfigError
from everclip.methods.rail import Rail
from everclip.modules import ridge
from everclip.modules.ridge import KernelRidge, RecursiveRidge
from everclip.types import ClassSet, Samples, Session
from tests.methods.given import Features, GivenFeatures

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rail_official.json").read_text())
WIDTH, HIDDEN = 16, 64
SIZES = ((3, 40), (2, 30), (4, 50))  # classes and pictures of the sessions; 3 more classes are never learned
EVERY = ClassSet(tuple(range(12)), tuple(str(index) for index in range(12)))


def unit(values: Any) -> Any:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def extract(images: Samples, encode: Callable[[Tensor], Tensor], *, as_trained: bool = False) -> tuple[Tensor, Tensor]:
    assert isinstance(images, Features)
    assert as_trained  # as the official code, whose training pictures are random crops
    return encode(images.rows), torch.from_numpy(images.labels)


def make(**options: Any) -> tuple[Rail, list[Session], Tensor]:
    """The method on the golden run's random features, its sessions, and 24 test features."""
    stream = np.random.RandomState(0)
    projection = stream.uniform(-0.25, 0.25, (WIDTH, HIDDEN))
    table = unit(stream.standard_normal((12, WIDTH)))
    sessions, start = [], 0
    for index, (classes, count) in enumerate(SIZES):
        labels = np.arange(count) % classes + start
        rows = unit(table[labels] + 0.8 * unit(stream.standard_normal((count, WIDTH))))
        new, seen = (EVERY.select(range(first, start + classes)) for first in (start, 0))
        sessions.append(Session(index, str(index), new, seen, Features(torch.tensor(rows).float(), labels)))
        start += classes
    test = unit(table[np.arange(24) % 12] + 0.8 * unit(stream.standard_normal((24, WIDTH))))
    method = Rail(GivenFeatures(torch.tensor(table).float()), hidden_dim=HIDDEN, **options)
    if isinstance(method.adapter, RecursiveRidge):
        method.adapter.projection.copy_(torch.from_numpy(projection))
    return method, sessions, torch.tensor(test).float()


@pytest.mark.parametrize(("form", "tolerance"), [("primal", 1e-5), ("dual", 5e-5)])
def test_three_sessions_follow_the_official_code(form: str, tolerance: float) -> None:
    method, sessions, test = make(form=form)
    for session, expected in zip(sessions, GOLDEN[form], strict=True):
        method.end_session(session, extract)
        scores = method.logits(test, EVERY) / 100
        adapted = method.adapter(test)
        np.testing.assert_allclose(adapted[:4], expected["adapter"], rtol=0, atol=tolerance)
        np.testing.assert_allclose(scores[:12], expected["scores"], rtol=0, atol=tolerance)
        zero_shot = (100 * test @ method.backbone.table.T).argmax(dim=1)
        assert int((zero_shot < len(session.seen)).sum()) == expected["mask"]


def test_the_recursion_is_ridge_regression_on_everything() -> None:
    torch.manual_seed(0)
    inputs, columns = torch.randn(600, 8), torch.arange(600) % 3
    ridge = RecursiveRidge(8, 50, 0.1)
    for first, last, classes in ((0, 400, 3), (400, 401, 3), (401, 600, 4)):  # one of them in two blocks
        ridge.fit(inputs[first:last], columns[first:last], classes)
    hidden = (inputs.double() @ ridge.projection.double()).relu()
    target = torch.nn.functional.one_hot(columns, 4).double()
    joint = torch.linalg.solve(hidden.T @ hidden + 0.1 * torch.eye(50, dtype=torch.float64), hidden.T @ target)
    torch.testing.assert_close(ridge.weights, joint, rtol=0, atol=1e-10)
    torch.testing.assert_close(ridge(inputs[:5]), hidden[:5] @ joint, rtol=0, atol=1e-10)


def test_one_input_by_hand() -> None:
    ridge = RecursiveRidge(1, 2, 0.5)
    ridge.projection.copy_(torch.tensor([[2.0, -1.0]]))
    ridge.fit(torch.tensor([[3.0]]), torch.tensor([0]), 1)
    assert ridge.weights.flatten().tolist() == pytest.approx([6 / (36 + 0.5), 0])
    kernel = KernelRidge(2, 0.25, 0.5)
    kernel.fit(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), 2)
    assert kernel(torch.tensor([[0.0, 1.0]])).flatten().tolist() == pytest.approx([0, np.exp(-0.5) / 1.5])


def test_more_pictures_than_can_be_solved_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "MOST_EQUATIONS", 3)
    kernel = KernelRidge(2, 0.25, 0.5)
    kernel.fit(torch.randn(3, 2), torch.tensor([0, 1, 0]), 2)
    with pytest.raises(ConfigError, match=r"on 4 pictures .* method.form=primal"):
        kernel.fit(torch.randn(1, 2), torch.tensor([1]), 2)
    assert len(kernel.inputs) == 3


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_the_order_of_sessions_does_not_matter(form: str) -> None:
    forwards, sessions, test = make(form=form)
    backwards, _, _ = make(form=form)
    for session in sessions:
        forwards.end_session(session, extract)
    for number, session in enumerate(reversed(sessions)):
        seen = ClassSet.union([earlier.new for earlier in sessions[::-1][: number + 1]])
        backwards.end_session(Session(number, "", session.new, seen, session.train), extract)
    torch.testing.assert_close(backwards.logits(test, EVERY), forwards.logits(test, EVERY), rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_what_is_not_learned_is_left_to_zero_shot(form: str) -> None:
    method, sessions, test = make(form=form)
    zero_shot = (100 * test @ method.backbone.table.T).softmax(dim=-1)
    before = method.logits(test, EVERY)
    method.end_session(sessions[0], extract)
    unseen = EVERY.select(range(3, 12))
    torch.testing.assert_close(before, 100 * zero_shot)
    torch.testing.assert_close(
        method.logits(test, unseen), 100 * (100 * test @ method.backbone.table[3:].T).softmax(dim=-1)
    )
    left, kept = zero_shot.argmax(dim=1) >= 3, method.logits(test, EVERY)
    torch.testing.assert_close(kept[left], before[left])
    assert not torch.isclose(kept[~left], before[~left]).all(dim=1).any()


def test_without_weight_it_is_zero_shot() -> None:
    method, sessions, test = make(adapter_weight=0)
    before = method.logits(test, EVERY)
    method.end_session(sessions[0], extract)
    assert torch.equal(method.logits(test, EVERY), before)


@pytest.mark.parametrize(
    ("command", "form", "ridge", "sequence", "shots"),
    [
        ("+experiment=rail/xtail", "dual", 1e-3, "xtail", 16),
        ("method=rail backbone=vit_b16_openai sequence=mtil_order1 sequence.shots=5", "primal", 0.1, "mtil_order1", 5),
    ],
)
def test_a_protocol_has_the_official_settings(
    command: str, form: str, ridge: float, sequence: str, shots: int, compose: Callable[..., DictConfig]
) -> None:
    config = compose(*command.split())
    check_values(config)
    for group in GROUPS:
        check_group(group, config[group])
    settings = {key: value for key, value in config.method.items() if key != "_target_"}
    assert settings == {"form": form, "hidden_dim": 15000, "gamma": 0.1, "ridge": None, "adapter_weight": 0.8}
    assert Rail(GivenFeatures(torch.zeros(1, 4)), form=form).adapter.ridge == ridge  # type: ignore[arg-type]
    assert (config.hydra.runtime.choices.sequence, config.sequence.shots) == (sequence, shots)
    assert (config.backbone.model, config.train.augment) == ("ViT-B-16-quickgelu", "crop")


@pytest.mark.parametrize(("width", "hidden_dim"), [(128, 3750), (512, 15000), (768, 15000)])
def test_random_features_follow_a_narrow_width(width: int, hidden_dim: int) -> None:
    with torch.device("meta"):
        rail = Rail(GivenFeatures(torch.zeros(1, width)), hidden_dim=None)
    assert rail.adapter.projection.shape == (width, hidden_dim)
    assert rail.kept_bytes([60, 5], 1000) == 4 * width * hidden_dim + 8 * hidden_dim * (hidden_dim + 65) + 8 * 65


@pytest.mark.parametrize("words", ["file backbone.model=mine.json", "from_run backbone.run=mine"])
def test_random_features_follow_the_width_of_a_model_of_ones_own(
    words: str, compose: Callable[..., DictConfig]
) -> None:
    assert compose("method=rail", *f"backbone={words}".split()).method.hidden_dim is None
