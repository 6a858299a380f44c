"""Selection, null logits, losses and batches follow the official code on random numbers.

tests/golden/conpet_official.json was made by running it outside the project; its first key says how.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.memory.mixed import MixedBatches
from everclip.modules.experts import Scorer, Selector, choose, combine

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "conpet_official.json").read_text())
CASES = [pytest.param(case, id=f"{case['top_k']}-{case['teacher_forcing']}") for case in GOLDEN["cases"]]

STREAM = np.random.RandomState(0)
TARGETS = torch.tensor(STREAM.randint(0, 11, 12))
LOGITS = [torch.tensor(STREAM.standard_normal((12, n)) * 3, dtype=torch.float32) for n in (3, 2, 4, 2)]
SCORES = torch.tensor(STREAM.standard_normal((12, 4)), dtype=torch.float32)
TARGETS[:3] = torch.tensor([9, 10, 9])
OWNERS = torch.tensor([0] * 3 + [1] * 2 + [2] * 4 + [3] * 2)


def table(logits: Tensor, rows: Tensor) -> Tensor:
    return logits[rows.long()]


def scorers(last: Tensor) -> dict[int, tuple[list[int], Scorer]]:
    columns = [(number == OWNERS).nonzero()[:, 0].tolist() for number in range(4)]
    return {number: (columns[number], partial(table, logits)) for number, logits in enumerate([*LOGITS[:3], last])}


@pytest.mark.parametrize("case", CASES)
def test_experts_loss_and_gradient(case: dict[str, Any]) -> None:
    last, rows = LOGITS[3].clone().requires_grad_(), torch.arange(12.0)
    chosen = choose(SCORES, case["top_k"], OWNERS[TARGETS] if case["teacher_forcing"] else None)
    assert [row.nonzero()[:, 0].tolist() for row in chosen] == case["chosen"]
    losses = F.cross_entropy(combine(rows, chosen, scorers(last), 11, -100.0), TARGETS, reduction="none")
    np.testing.assert_allclose(losses.detach(), case["per_picture"], rtol=1e-5, atol=1e-5)
    losses.mean().backward()
    np.testing.assert_allclose(last.grad, case["gradient"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_scores_in_evaluation(case: dict[str, Any]) -> None:
    chosen = choose(SCORES, case["top_k"])
    logits = combine(torch.arange(12.0), chosen, scorers(LOGITS[3]), 11, -100.0)
    np.testing.assert_allclose(logits.log_softmax(dim=1), case["log_probabilities"], rtol=1e-5, atol=1e-5)


def test_selector_with_a_row_per_expert() -> None:
    selector = Selector(2)
    selector.grow(torch.arange(4))
    rows = SCORES.clone().requires_grad_()
    loss = F.cross_entropy(selector.scores(rows), OWNERS[TARGETS])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(GOLDEN["selector"]["loss"], rel=1e-6)
    np.testing.assert_allclose(rows.grad, GOLDEN["selector"]["gradient"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["batches"], ids=lambda case: f"{case['batch_size']}-{case['new_per_old']}")
def test_batches(case: dict[str, Any]) -> None:
    draws = MixedBatches(320, case["new_per_old"], np.arange(55, 85), (np.arange(50), np.arange(50, 55)))
    stream, size = np.random.default_rng(0), case["batch_size"]
    batches = np.stack([draws(stream, size) for _ in range(case["batches"])])
    assert ((batches >= 55).sum(axis=1) == case["new"]).all()
    total = case["batches"] * (size - case["new"])
    assert sum(case["earlier"]) == total
    for first in (case["earlier"][0], (batches < 50).sum()):
        assert abs(first - total / 2) < 3 * (total / 4) ** 0.5  # three standard deviations
