"""GRIP follows the official code's own numbers; what it learns follows from no label that it is not shown.

tests/golden/grip_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import prepared
from everclip.methods.grip import Grip
from everclip.modules.pseudo_labels import growing_count, leaderboards, likeliest
from everclip.training.schedules import Schedule
from everclip.types import NO_CLASSES, Batch, ClassSet, Phase, Samples, Session
from tests.methods import official_clip as official
from tests.methods.given import Features

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "grip_official.json").read_text())
CLASSES = ClassSet(official.CLASSES.ids, official.CLASSES.names, ("a photo of a {}",))
PICTURES = official.values(11, 36, 3, 32, 32)
LABELS = {"ssl": [0, 1, 2, 3, 4] * 2 + [0, 1], "trzsl": [0, 1] * 6, "ul": []}
SCHEDULE = Schedule(interval="epoch", warmup=1, decay="cosine")
EPOCHS = 4


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    return official.make_backbone(tmp_path_factory.mktemp("grip"))


def session_of(setting: str, hidden: int = -1) -> Session:
    """12 pictures with labels or none, 24 without; `hidden`: what stands in the place of labels of the latter."""
    labels = np.array(LABELS[setting], dtype=np.int64)
    without = {"ssl": NO_CLASSES, "trzsl": CLASSES.select([2, 3, 4]), "ul": CLASSES}[setting]
    train, rest = Features(PICTURES[24 : 24 + len(labels)], labels), Features(PICTURES[:24], np.full(24, hidden))
    return Session(0, setting, CLASSES, CLASSES, train, unlabelled=rest, without_labels=without)


def extract(samples: Samples, encode: Any, *, as_trained: bool = False, number: int = 0) -> tuple[Tensor, Tensor]:
    assert isinstance(samples, Features)
    with torch.no_grad():
        return encode(samples.rows), torch.from_numpy(samples.labels)


def in_their_order(method: Grip) -> list[nn.Parameter]:
    """The trained parameters as the official code lists them."""
    own = [p for p in (method.text, method.vision) if p is not None]
    if method.mixer is None:
        return own
    block = method.mixer.block
    parts = (
        method.mixer.text_in, method.mixer.text_out, method.mixer.vision_in, method.mixer.vision_out,
        block.self_attn, block.norm1, block.linear1, block.linear2, block.norm2,
    )  # fmt: skip
    return [*own, *(p for part in parts for p in part.parameters())]


def whole(data: Samples) -> Batch:
    return data.read(range(len(data)), lambda image: torch.empty(0))


def optimise(method: Grip, session: Session, lr: float) -> tuple[list[list[list[int]]], list[float]]:
    """All iterations on whole batches: pseudo-labels (picture, class) of each, and the loss of each step."""
    method.begin_session(session, extract)
    chosen, losses = [], []
    for planned in method.phases(session):
        phase = prepared(planned, extract)
        assert phase.data is not None
        assert phase.loss is not None
        batch = whole(phase.data)
        rows = [int((image == PICTURES).flatten(1).all(1).nonzero()) for image in batch.images[method.labelled :]]
        chosen.append([list(pair) for pair in zip(rows, method.targets[method.labelled :].tolist(), strict=True)])
        optimizer = torch.optim.SGD(in_their_order(method), lr=lr, momentum=0.9, weight_decay=0.1)
        for epoch in range(EPOCHS):
            optimizer.param_groups[0]["lr"] = lr * SCHEDULE.factor(epoch, EPOCHS)
            optimizer.zero_grad()
            loss = torch.stack(list(phase.loss(batch).values())).sum()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return chosen, losses


@pytest.mark.parametrize("case", [key for key in GOLDEN if key != "made_by"])
def test_whole_runs_follow_the_official_code(case: str, backbone: OpenClip) -> None:
    setting, prompts, strategy, *on = case.split("_")
    method = Grip(
        backbone, strategy=strategy, prompts=prompts, length=3, iterations=4,
        pseudo_shots=3, restart=not on,
    ).double()  # type: ignore[arg-type]  # as the cases say  # fmt: skip
    official.fill(*in_their_order(method))
    chosen, losses = optimise(method, session_of(setting), 0.01 if prompts == "both" else 0.05)
    expected = GOLDEN[case]
    assert chosen == expected["pseudo_labels"][: len(chosen)]
    assert losses == pytest.approx(expected["losses"], rel=1e-7)
    for ours, theirs in zip(in_their_order(method), expected["parameters"], strict=True):
        assert official.summary(ours) == pytest.approx(theirs, rel=1e-7, abs=1e-7)
    with torch.no_grad():
        official.close(method.logits(PICTURES[:4], CLASSES), expected["logits"], "logits")


def test_pseudo_labels_follow_from_no_label(backbone: OpenClip) -> None:
    seen = []
    for hidden in (-1, 3):  # every picture poisoned with the same label
        method = Grip(backbone, length=2, iterations=2).double()
        official.fill(*in_their_order(method))
        seen.append(optimise(method, session_of("ul", hidden), 0.05))
    assert seen[0] == seen[1]


def test_more_pictures_are_taken_each_time_until_all_are() -> None:
    assert [growing_count(i, 10, 1000, 10) for i in range(1, 11)] == list(range(10, 101, 10))
    assert [growing_count(i, 4, 10, 3) for i in range(1, 5)] == [1, 1, 2, 2]  # of 10 // 4 more each time
    assert growing_count(1, 10, 5, 3) == 1


def test_the_likeliest_pictures_of_each_class() -> None:
    probabilities = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    rows, columns = likeliest(probabilities, 4)
    assert columns.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for column in range(3):
        kept = rows[columns == column]
        rest = probabilities[[row for row in range(12) if row not in kept.tolist()], column]
        assert len(kept.unique()) == 4
        assert probabilities[kept, column].min() >= rest.max()
    assert len(likeliest(probabilities, 20)[0]) == 36


def test_a_picture_without_a_place_in_its_class_takes_one_in_others() -> None:
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.9, 0.06, 0.04], [0.8, 0.1, 0.1], [0.5, 0.2, 0.3]])
    rows, columns = leaderboards(probabilities, 1)
    # 1 displaces 0, which is lost; 2 finds class 0 taken and takes 1 and 2; 3 is likelier than it in both.
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(1, 0), (3, 1), (3, 2)]
    rows, columns = leaderboards(probabilities, 2)
    # As in the code, the last that came is the bar until one was displaced: 2 is not likelier than 1.
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 0), (2, 1), (3, 1), (2, 2), (3, 2)]


def test_without_other_pictures_it_learns_from_labels(backbone: OpenClip) -> None:
    method = Grip(backbone, length=2).double()
    labelled = session_of("ssl")
    session = replace(labelled, unlabelled=None)
    method.begin_session(session, extract)
    assert method.phases(session) == (Phase(),)
    batch = whole(labelled.train)
    expected = nn.functional.cross_entropy(method.logits(batch.images, CLASSES), batch.labels)
    assert torch.equal(method.loss(batch)["cross_entropy"], expected)


def test_an_iteration_is_prepared_again_from_what_was_trained(backbone: OpenClip) -> None:
    found = []
    for stopped in (False, True):  # then it is begun anew, and what the first iteration has trained is laid over
        method = Grip(backbone, length=2, iterations=2).double()
        assert method.text is not None
        official.fill(method.text)
        method.begin_session(session_of("ssl"), extract)
        first, second = method.phases(session_of("ssl"))
        if not stopped:
            prepared(first, extract)
        with torch.no_grad():
            method.text.copy_(official.values(2, *method.text.shape))
        data = prepared(second, extract).data
        assert data is not None
        assert torch.equal(method.text, official.values(100, *method.text.shape, scale=0.1))
        found.append([method.targets, method.weights, whole(data).images])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
