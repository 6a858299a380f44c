"""Both stages follow the official code; classes with a row of their own are told from others by name.

tests/golden/two_stage_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import Method, prepared
from everclip.methods.two_stage import TwoStage
from everclip.training.phases import Budget, Training
from everclip.training.schedules import Schedule
from everclip.types import ClassSet, Phase, Samples, Session
from tests.methods.small_clip import CLASSES, LABELS, PIXELS, batches, small_clip
from tests.methods.test_cpe_clip_official import TensorImages

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "two_stage_official.json").read_text())
BASE, TEST = CLASSES.select([0, 1, 2]), PIXELS[12:]
SESSION = Session(0, "base", BASE, BASE, TensorImages(PIXELS[:12], LABELS), repeats=5)
NEXT = replace(
    SESSION, index=1, new=CLASSES.select([3, 4]), seen=CLASSES, train=TensorImages(PIXELS[:12], LABELS % 2 + 3)
)
LR = 1e-3


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., TwoStage]:
    return lambda **options: TwoStage(small_clip(tmp_path), **options)


def extract(
    samples: Samples, encode: Callable[[Tensor], Tensor], *, as_trained: bool = False, number: int = 0
) -> tuple[Tensor, Tensor]:
    assert isinstance(samples, TensorImages)
    with torch.no_grad():
        return encode(samples.pixels), torch.from_numpy(samples.labels)


def run(method: TwoStage, session: Session) -> list[float]:
    """The phases of a session, on batches of four; the losses of all steps."""
    method.begin_session(session, extract)
    return [
        loss for planned in method.phases(session) for loss in run_phase(method, prepared(planned, extract), session)
    ]


def run_phase(method: TwoStage, phase: Phase, session: Session) -> list[float]:
    assert phase.parameters
    assert phase.loss
    assert phase.epochs is not None
    optimizer = torch.optim.AdamW(
        [p for p in phase.parameters if isinstance(p, torch.nn.Parameter)], lr=LR, weight_decay=0.01
    )
    losses, steps = [], [batch for _ in range(phase.epochs) for batch in batches(4)]
    labels = torch.from_numpy(session.train.labels)
    for step, batch in enumerate(steps):
        optimizer.param_groups[0]["lr"] = LR * Schedule(decay="cosine", final=1e-6 / LR).factor(step, len(steps))
        (loss,) = phase.loss(replace(batch, labels=labels[batch.indices])).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_both_stages_follow_the_official_code(make: Callable[..., TwoStage]) -> None:
    method = make()
    before = {name: value.detach().clone() for name, value in method.backbone.named_parameters()}
    assert run(method, SESSION) == pytest.approx(GOLDEN["losses"], abs=1e-9)
    update = {n.removeprefix("model."): p.detach() - before[n] for n, p in method.backbone.named_parameters()}
    assert sum(bool(change.any()) for change in update.values()) == GOLDEN["changed"]
    for name, expected in GOLDEN["update"].items():
        assert float(update[name].norm()) == pytest.approx(expected["norm"], abs=1e-9), name
        np.testing.assert_allclose(update[name].flatten()[:4], expected["first"], rtol=0, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(method.rows.rows.detach(), GOLDEN["rows"], rtol=0, atol=1e-9)
    for names, expected in GOLDEN["logits"].items():  # base, novel, and some of both
        asked = CLASSES.select([CLASSES.names.index(name) for name in names.split("+")])
        with torch.no_grad():
            np.testing.assert_allclose(method.logits(TEST, asked), expected, rtol=0, atol=1e-8, err_msg=names)


def test_new_classes_bring_rows_and_leave_the_earlier_ones(make: Callable[..., TwoStage]) -> None:
    method = make()
    run(method, SESSION)
    rows, norms = method.rows.rows.detach().clone(), [p.detach().clone() for p in method.tuned]
    run(method, NEXT)
    assert method.rows.ids.tolist() == [0, 1, 2, 3, 4]
    # Weight decay makes them shorter, which no logit sees.
    torch.testing.assert_close(torch.cosine_similarity(method.rows.rows.detach()[:3], rows), torch.ones(3).double())
    assert not any(p.equal(before) for p, before in zip(method.tuned, norms, strict=True))
    again = replace(NEXT, index=2, new=ClassSet((), ()), returning=NEXT.new)
    run(method, again)
    assert len(method.rows.ids) == 5


@pytest.mark.parametrize(("share", "epochs"), [(0.0, [0, 5]), (0.6, [3, 2]), (1.0, [5, 0])])
def test_the_stages_share_the_passes(share: float, epochs: list[int], make: Callable[..., TwoStage]) -> None:
    method = make(share=share)
    method.begin_session(SESSION, extract)
    stages = [prepared(planned, extract) for planned in method.phases(SESSION)]
    assert [stage.epochs for stage in stages] == epochs
    training = Training(Budget(5, 32), Budget(5, 32), torch.optim.AdamW, Schedule())
    one_shot = replace(SESSION, train=SESSION.train.subset([0, 1, 2]))
    assert [
        training.length(one_shot, replace(s, batch_size=4)).steps for s in stages
    ] == epochs  # no picture is left out


@pytest.mark.parametrize("tuned", ["layer_norms", "lora"])
def test_it_begins_as_zero_shot(tuned: Literal["layer_norms", "lora"], make: Callable[..., TwoStage]) -> None:
    method = make(tuned=tuned)
    method.begin_session(SESSION, extract)
    with torch.no_grad():
        expected = Method(method.backbone).logits(TEST, CLASSES)
        prepared(method.phases(SESSION)[1], extract)
        assert len(method.rows.ids) == 3
        torch.testing.assert_close(method.logits(TEST, CLASSES), expected)


@pytest.mark.parametrize(("tuned", "values"), [("layer_norms", 61_440), ("lora", 184_320)])
def test_the_first_stage_trains_as_many_values_as_theirs(tuned: Literal["layer_norms", "lora"], values: int) -> None:
    method = TwoStage(OpenClip(model="ViT-B-16", weights="random", load=False), tuned=tuned)
    assert method.num_trainable() == values
    assert method.num_arriving([100]) == 51_200
