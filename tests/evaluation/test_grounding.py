"""Moments of clips, from what fits a text frame by frame to the scores of a task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.data.grounded import GroundedClips
from everclip.evaluation.grounding import Grounding
from everclip.methods.base import Method
from everclip.modules.moments import best, from_saliency
from everclip.objectives.grounding import Grounding as MomentObjective
from everclip.objectives.grounding import inside
from everclip.types import NO_CLASS, NO_CLASSES, Moments, Task
from tests.evaluation.conftest import Chunks, Table
from tests.methods.given import Features


def test_runs_that_stand_out() -> None:
    saliency = torch.tensor([[0.1, 0.1, 0.9, 0.8, 0.1, 0.1, 0.1, 0.1], [1, 1, 1, 1, 0, 0, 0, 0]])
    found = from_saliency(saliency).spans
    assert found[0, 0].tolist() == [2 / 8, 4 / 8]
    assert found[1, 0].tolist() == [0, 0.5]
    spans = torch.tensor([[[0.0, 1.0], [0.0, 0.9], [0.5, 1.0]]])
    kept = best(spans, torch.tensor([[2.0, 3.0, 1.0]]), 3)
    assert kept.tolist()[0] == [spans[0, 1].tolist(), [0.5, 1.0], [-1.0, -1.0]]


class Watching(Table):
    """A model of pictures as `Table`, with the moments that every method has."""

    def moments(self, images: Tensor, texts: Sequence[str]) -> Moments:
        return Method.moments(self, images, texts)  # type: ignore[arg-type]  # a model in brief


def test_a_task_is_judged_by_every_text() -> None:
    # Text 0 is in the second and third of four parts, text 1 in the last, but found in the first.
    features = F.one_hot(torch.tensor([2, 0, 0, 2, 1, 2, 2, 2]), 3).float()
    model = Watching(features, torch.eye(3))
    clips = Features(torch.arange(8.0).reshape(2, 4, 1), np.full(2, NO_CLASS))
    moments = np.array([[[0.25, 0.75], [-1, -1]], [[0.75, 1.0], [-1, -1]]], dtype=np.float32)
    judged = np.array([[[0], [4], [4], [0]], [[0], [0], [0], [4]]])
    samples = GroundedClips(clips, ["0", "1"], moments, judged)
    scores = Grounding().evaluate(
        model, Task("t", NO_CLASSES, samples, Grounding(), 0), Chunks(1), ()  # type: ignore[arg-type]
    ).scores  # fmt: skip
    assert scores["r1_iou70"].value == 50
    assert scores["hit1"].value == 50
    assert scores["highlight_map"].value == pytest.approx(100 * (1 + 1 / 4) / 2)  # the last of four equal ones
    assert scores["moment_map"].count == 2
    batch = samples.read([0], lambda image: torch.empty(0))
    loss = MomentObjective().loss(model, batch, NO_CLASSES, 0.0)["moments"]  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(-np.log(2 * np.exp(10) / (2 * np.exp(10) + 2)), abs=1e-5)
    assert inside(torch.tensor([[[0.25, 0.75], [-1, -1]]]), 4).tolist() == [[False, True, True, False]]
