"""ProLIP follows the official code's steps; the projection stays near the one it is held to.

tests/golden/prolip_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbones.insertion import TokenEdit
from everclip.backbones.open_clip import OpenClip
from everclip.data.loading import SeededBatches
from everclip.methods.prolip import Prolip
from everclip.training.schedules import Schedule
from everclip.types import Batch, ClassSet, Session
from tests.methods.given import Features, GivenFeatures
from tests.methods.test_cpe_clip import no_extract

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "prolip_official.json").read_text())
STREAM = np.random.RandomState(0)
PROJECTION, TEXT = (torch.from_numpy(STREAM.standard_normal(shape)) for shape in ((6, 4), (3, 4)))
LABELS = np.arange(6) % 3
VIEWS, TEST = (torch.from_numpy(STREAM.standard_normal(shape)) for shape in ((4, 6, 6), (5, 6)))


class Projected(GivenFeatures):
    """Given features before a projection."""

    def __init__(self) -> None:
        super().__init__(F.normalize(TEXT, dim=-1))
        self.visual = nn.Module()
        self.visual.proj = nn.Parameter(PROJECTION / 6**0.5, requires_grad=False)

    def encode_image(self, images: Tensor, edit: TokenEdit | None = None, *, normalize: bool = True) -> Tensor:
        return F.normalize(images @ self.visual.proj, dim=-1)


def session(*ids: int, index: int = 0, shots: int = 2) -> Session:
    classes = ClassSet(ids, tuple(map(str, ids)))
    return Session(index, "s", classes, classes, Features(torch.zeros(shots * len(ids), 6), np.repeat(ids, shots)))


def step(method: Prolip, views: list[int], lr: float = 1e-2) -> float:
    """Steps on all pictures in these views; the loss of the last one."""
    (projection,) = method.projection
    optimizer, total = torch.optim.AdamW([projection], lr=lr, eps=1e-4, weight_decay=0.0), torch.zeros(())
    for number, view in enumerate(views):
        optimizer.param_groups[0]["lr"] = lr * Schedule(decay="cosine").factor(number, len(views))
        optimizer.zero_grad()
        batch = Batch(VIEWS[view], torch.from_numpy(LABELS), torch.arange(6))
        total = torch.stack(list(method.loss(batch).values())).sum()
        total.backward()
        optimizer.step()
    return float(total.detach())


@pytest.mark.parametrize(("key", "views"), [("one", [1]), ("five", [1, 2, 3, 0, 1])])
def test_steps_follow_the_official_code(key: str, views: list[int]) -> None:
    method, expected, every = Prolip(Projected()), GOLDEN[key], session(0, 1, 2)
    method.begin_session(every, no_extract)
    assert step(method, views) == pytest.approx(expected["loss"], abs=1e-9)
    np.testing.assert_allclose(method.projection[0].detach(), expected["projection"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(method.logits(TEST, every.new).detach(), expected["logits"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("anchor", ["pretrained", "previous"])
def test_new_classes_train_the_same_projection_held_to_its_anchor(anchor: Literal["pretrained", "previous"]) -> None:
    method = Prolip(Projected(), anchor=anchor)
    start = method.projection[0].detach().clone()
    method.begin_session(session(0, 1, 2), no_extract)
    step(method, [0, 1])
    between = method.projection[0].detach().clone()
    assert not between.equal(start)
    method.begin_session(session(0, 2, index=1, shots=5), no_extract)
    assert method.anchors[0].equal(start if anchor == "pretrained" else between)
    batch = Batch(VIEWS[0][[0, 2]], torch.from_numpy(LABELS[[0, 2]]), torch.arange(2))
    losses = method.loss(batch)
    assert float(losses["distance"].detach()) == pytest.approx(float((between - method.anchors[0]).square().sum()) / 5)
    logits = method.logits(batch.images, ClassSet((0, 2), ("0", "2")))
    torch.testing.assert_close(losses["cross_entropy"], F.cross_entropy(logits, torch.tensor([0, 1])))


def test_a_large_weight_leaves_it_zero_shot() -> None:
    method = Prolip(Projected(), weight=1e9)
    method.begin_session(session(0, 1, 2), no_extract)
    before = method.logits(TEST, session(0, 1, 2).new).detach()
    step(method, [0, 1, 2, 3] * 10, lr=1e-4)
    torch.testing.assert_close(method.logits(TEST, session(0, 1, 2).new).detach(), before, atol=0.02, rtol=0)


@pytest.mark.parametrize(("whole", "steps"), [(True, 1), (False, 3)])
def test_one_shot_of_every_class_is_in_every_pass(whole: bool, steps: int) -> None:
    shots = session(*range(10), shots=1)
    (phase,) = Prolip(Projected(), whole_batch=whole).phases(shots)
    batches = SeededBatches(len(shots.train), phase.batch_size or 4, (0,), steps=2 * steps)
    assert batches.steps_per_epoch == steps
    passes = list(batches)
    for seen in (passes[:steps], passes[steps:]):
        assert sorted(index for batch in seen for index in batch) == list(range(10))


@pytest.mark.parametrize(("model", "values"), [("ViT-B-16", 393_216), ("RN50", 2_097_152)])
def test_the_projection_is_what_is_trained(model: str, values: int) -> None:
    backbone = OpenClip(model=model, weights="random", load=False)
    assert Prolip(backbone).num_trainable() == values


def test_a_tower_without_a_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="ends in no projection of its own"):
        Prolip(GivenFeatures(TEXT))
