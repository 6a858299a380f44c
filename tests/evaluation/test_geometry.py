"""Modality gap, alignment, uniformity, CKA and neighbours kept: worked out by hand, and by other formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.evaluation import geometry as measures
from everclip.evaluation.geometry import changes, geometry, linear_cka


def rows(*shape: int, seed: int = 0) -> Tensor:
    """Random features of length 1."""
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_geometry_of_four_features_by_hand() -> None:
    pictures, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = geometry(pictures, texts)
    assert found["modality_gap"] == pytest.approx(0.5**2 + 0.5**2)  # means (1/2, 1/2) and (0, 0)
    assert found["alignment"] == pytest.approx((0 + 2) / 2)
    # Squared distances of the six pairs: 0 once, 4 twice, 2 three times.
    assert found["uniformity"] == pytest.approx(math.log((1 + 2 * math.exp(-8) + 3 * math.exp(-4)) / 6))


def test_uniformity_is_that_of_all_distances() -> None:
    pictures, texts = rows(9, 5), rows(9, 5, seed=1)
    both = torch.cat([pictures, texts]).double()
    expected = float(torch.pdist(both).square().mul(-2).exp().mean().log())
    assert geometry(pictures, texts)["uniformity"] == pytest.approx(expected)


def test_cka_is_that_of_centred_kernels_and_blind_to_rotation_and_scale() -> None:
    one, other = rows(12, 4), rows(12, 6, seed=1)
    centre = torch.eye(12, dtype=torch.float64) - 1 / 12
    kernels = [centre @ (x.double() @ x.double().T) @ centre for x in (one, other)]
    expected = float((kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm()))
    assert linear_cka(one, other) == pytest.approx(expected)
    rotation = torch.linalg.qr(rows(4, 4, seed=2).double()).Q
    assert linear_cka(one, 3 * one.double() @ rotation + 1) == pytest.approx(1)
    assert linear_cka(one, torch.ones(12, 3)) == 0  # nothing varies


def test_neighbours_are_kept_or_lost_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "NEIGHBOURS", 1)
    axes = torch.eye(4)
    before = {"pictures": axes, "texts": axes}
    moved = {"pictures": axes, "texts": axes[[1, 0, 2, 3]]}  # two pictures and two texts find another one
    assert changes(before, moved)["neighbour_overlap"] == 50
    assert changes(before, moved)["image_cka"] == pytest.approx(1)
    assert changes(before, before)["neighbour_overlap"] == 100


def test_neighbours_that_are_alike_count_as_kept_however_they_are_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "NEIGHBOURS", 2)
    pictures, texts = rows(5, 3), rows(1, 3, seed=1).expand(5, 3)
    rounded = {"pictures": pictures, "texts": texts + 1e-8 * torch.randn(5, 3, generator=torch.manual_seed(0))}
    assert changes({"pictures": pictures, "texts": texts}, rounded)["neighbour_overlap"] == 100
