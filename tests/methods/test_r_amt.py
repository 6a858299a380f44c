"""R-AMT follows the official code's steps; masks come back from their bits; dropped gradients follow their rule.

tests/golden/r_amt_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import Method
from everclip.methods.r_amt import RAmt
from everclip.modules.lora import fold
from everclip.modules.masks import Mask, gradient_dropout
from everclip.types import Session
from tests.methods.given import GivenFeatures
from tests.methods.small_clip import CLASSES, LABELS, PIXELS, batches, small_clip
from tests.methods.test_cpe_clip import no_extract
from tests.methods.test_cpe_clip_official import TensorImages

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "r_amt_official.json").read_text())
BASE, TEST = CLASSES.select([0, 1, 2]), PIXELS[12:]
SESSION = Session(0, "base", BASE, BASE, TensorImages(PIXELS[:12], LABELS))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., RAmt]:
    return lambda **options: RAmt(small_clip(tmp_path), **options)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws as in the golden run."""
    stream = np.random.RandomState(2)
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.from_numpy(stream.random_sample(tuple(like.shape))))


def train(method: RAmt, steps: int = 5, lr: float = 3e-3, parts: int = 1) -> dict[str, list[float]]:
    """Steps on batches of four, each in so many micro-batches; the losses of each step."""
    optimizer = torch.optim.AdamW([mask.scores for mask in method.masks], lr=lr, weight_decay=0.0)
    told: dict[str, list[float]] = {}
    for step in range(steps):
        batch = batches(4)[step % 3]
        optimizer.zero_grad()
        sums: dict[str, float] = {}
        for part in range(parts):
            rows = slice(part, None, parts)
            losses = method.loss(
                replace(batch, images=batch.images[rows], labels=batch.labels[rows], indices=batch.indices[rows])
            )
            weight = len(batch.labels[rows]) / len(batch.labels)
            (weight * torch.stack(list(losses.values())).sum()).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + weight * float(loss.detach())
        method.before_step()
        optimizer.step()
        for name, value in sums.items():
            told.setdefault(name, []).append(value)
    return told


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("key", "dropout", "parts"), [("hard", 1.0, 1), ("soft", 0.3, 1), ("hard", 1.0, 3)])
def test_steps_follow_the_official_code(key: str, dropout: float, parts: int, make: Callable[..., RAmt]) -> None:
    method, expected = make(dropout=dropout), GOLDEN[key]
    method.begin_session(SESSION, no_extract)
    losses = train(method, parts=parts)
    assert losses["cross_entropy"] == pytest.approx(expected["losses"]["main_loss"], abs=1e-9)
    assert losses["norm"] == pytest.approx(expected["losses"]["mask loss"], abs=1e-9)
    for mask, name in zip(method.masks, GOLDEN["order"], strict=True):
        scores = mask.scores.detach()
        assert float(scores.norm()) == pytest.approx(expected["scores"][name]["norm"], abs=1e-9), name
        np.testing.assert_allclose(scores.flatten()[:6], expected["scores"][name]["first"], rtol=0, atol=1e-9)
    off = sum(int((~mask.on()).sum()) for mask in method.masks)
    assert 100 * off / method.num_trainable() == pytest.approx(expected["off"])
    for _ in range(2):  # by scores, then by bits
        with torch.no_grad():
            np.testing.assert_allclose(method.logits(TEST, BASE), expected["logits"], rtol=0, atol=1e-8)
        method.end_session(SESSION, no_extract)


def test_it_begins_as_zero_shot_and_leaves_the_weights_alone(make: Callable[..., RAmt]) -> None:
    method = make()
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    with torch.no_grad():
        expected = Method(method.backbone).logits(TEST, CLASSES)
        method.begin_session(SESSION, no_extract)
        assert torch.equal(method.logits(TEST, CLASSES), expected)
    train(method)
    changed = {
        name for name, value in method.backbone.state_dict().items() if name in before and not value.equal(before[name])
    }
    assert {name.rpartition(".")[2] for name in changed} == {"scores"}


def test_a_session_begins_where_the_one_before_left_the_mask(make: Callable[..., RAmt]) -> None:
    method = make()
    method.begin_session(SESSION, no_extract)
    train(method)
    method.end_session(SESSION, no_extract)
    on = [mask.on() for mask in method.masks]
    assert 0 < sum(int(kept.sum()) for kept in on) < method.num_trainable()
    assert sum(mask.bits.nbytes for mask in method.masks) == method.num_trainable() / 8
    assert not any(mask.scores.numel() for mask in method.masks)
    later = replace(
        SESSION, index=1, new=CLASSES.select([3, 4]), seen=CLASSES, train=TensorImages(PIXELS[:12], LABELS % 2 + 3)
    )
    method.begin_session(later, no_extract)
    for mask, kept in zip(method.masks, on, strict=True):
        assert torch.equal(mask.on(), kept)
        assert set(mask.scores.unique().tolist()) == {0.0, 0.01}
    teacher = method.known(batches(4)[0])
    for mask in method.masks:
        mask.lifted = True
    torch.testing.assert_close(teacher, method.encode_image(PIXELS[:4]))


@pytest.mark.parametrize("size", [16, 13])
def test_bits_give_the_mask_back(size: int) -> None:
    mask = Mask(torch.zeros(size), 0.01, 0.005)
    assert mask.on().all()
    mask.begin()
    scores = torch.rand(size, generator=torch.Generator().manual_seed(0)) / 100
    scores[:2] = torch.tensor([0.005, 0.0])  # at the threshold it is off
    with torch.no_grad():
        mask.scores.copy_(scores)
    mask.end()
    assert torch.equal(mask.on(), scores > 0.005)
    assert len(mask.bits) == 2


def test_the_gradient_of_a_score_is_that_of_its_mask() -> None:
    layer = nn.Linear(3, 2, bias=False).double()
    mask = Mask(layer.weight, 0.01, 0.005)
    mask.begin()
    with torch.no_grad():
        mask.scores[0, 1] = 0.0
    seen = mask(layer.weight.detach())
    assert seen[0, 1] == 0
    whole = seen.detach().clone().requires_grad_(True)
    pictures = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
    F.linear(pictures, seen).square().sum().backward()
    F.linear(pictures, whole).square().sum().backward()
    assert whole.grad is not None
    torch.testing.assert_close(mask.scores.grad, whole.grad * layer.weight.detach())


@pytest.mark.parametrize(
    ("task", "general", "draw", "strength", "expected"),
    [
        pytest.param(2.0, 5.0, 0.999, 1.0, 2.0, id="same sign"),
        pytest.param(-2.0, 0.0, 0.999, 1.0, -2.0, id="nothing general"),
        pytest.param(2.0, -2.0, 0.499, 1.0, 2.0, id="opposite, drawn"),
        pytest.param(2.0, -2.0, 0.501, 1.0, 0.0, id="opposite, dropped"),
        pytest.param(-1.0, 3.0, 0.26, 0.25, -0.75, id="a quarter goes"),
        pytest.param(-1.0, 3.0, 0.26, 0.0, -1.0, id="nothing is dropped"),
    ],
)
def test_a_gradient_is_dropped_by_its_share(
    task: float, general: float, draw: float, strength: float, expected: float
) -> None:
    kept = gradient_dropout(torch.tensor(task), torch.tensor(general), torch.tensor(draw), strength)
    assert float(kept) == pytest.approx(expected)


def test_weights_that_are_folded_are_the_masked_ones(make: Callable[..., RAmt]) -> None:
    method = make(dropout=0.0)
    method.begin_session(SESSION, no_extract)
    train(method)
    method.end_session(SESSION, no_extract)
    with torch.no_grad():
        expected = method.encode_image(TEST)
        fold(method.backbone)
        assert torch.equal(method.encode_image(TEST), expected)


@pytest.mark.parametrize(("targets", "values"), [(["patch", "attention"], 28_901_376), (["mlp"], 56_623_104)])
def test_as_many_weights_are_masked_as_theirs(targets: list[str], values: int) -> None:
    backbone = OpenClip(model="ViT-B-16", weights="random", load=False)
    assert RAmt(backbone, targets=targets).num_trainable() == values  # type: ignore[arg-type]  # of the command line


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"threshold=0.01 must be below start=0.01"):
        RAmt(small_clip(tmp_path), threshold=0.01)
    with pytest.raises(ValueError, match="vision tower of open_clip's own blocks"):
        RAmt(GivenFeatures(torch.zeros(3, 4)))
    backbone = small_clip(tmp_path)
    backbone.model.visual.conv1 = nn.Identity()
    backbone.model.visual.convolution = backbone.model.visual.conv1
    del backbone.model.visual.conv1
    with pytest.raises(ValueError, match=r"targets=\['patch'\]: the image tower has no patch weights"):
        RAmt(backbone, targets=["patch"])
