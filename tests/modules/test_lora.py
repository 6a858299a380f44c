from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit
from everclip.modules.lora import EVERY_TARGET, LowRank, Target, add_low_rank, fold, soft_threshold
from tests.methods.test_cpe_clip import NAMES, Tiny, make_batch

IMAGES = make_batch([0, 1]).images


def draw(updates: Sequence[LowRank]) -> None:
    """Factors that are far from doing nothing."""
    torch.manual_seed(0)
    for update in updates:
        update.reset("normal")
        torch.nn.init.normal_(update.up, std=0.3)


def outputs(backbone: Backbone, edit: TokenEdit | None = None) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return backbone.encode_image(IMAGES, edit), backbone.encode_text(backbone.tokenize(NAMES), edit)


def differences(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> list[float]:
    return [float((x - y).abs().max()) for x, y in zip(a, b, strict=True)]


def test_new_updates_change_nothing(tiny: Tiny) -> None:
    backbone = tiny()
    before = outputs(backbone)
    for update in add_low_rank(backbone, rank=2, targets=EVERY_TARGET, towers="both", gated=True):
        update.reset("normal")
    assert max(differences(outputs(backbone), before)) < 1e-6


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_an_update_acts_in_every_forward_pass(tiny: Tiny, target: Target) -> None:
    backbone = tiny()
    before = outputs(backbone)
    draw(add_low_rank(backbone, rank=2, targets=[target], towers="both"))
    ours, theirs = outputs(backbone, TokenEdit()), outputs(backbone)  # of `backbones.blocks`, of open_clip
    assert min(differences(theirs, before)) > 1e-3
    assert max(differences(ours, theirs)) < 1e-5
    backbone.naive = True
    assert max(differences(outputs(backbone, TokenEdit()), theirs)) < 1e-5


def test_one_tower_may_be_left_alone(tiny: Tiny) -> None:
    for towers, place in (("vision", 0), ("text", 1)):
        backbone = tiny()
        before = outputs(backbone)
        draw(add_low_rank(backbone, rank=1, targets=["fc"], towers=towers))  # type: ignore[arg-type]  # a Literal
        changed = differences(outputs(backbone), before)
        assert changed[place] > 1e-3
        assert changed[1 - place] == 0


def test_the_formula() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    update = LowRank(weight, 3, [0, 2], 3, scale=0.5, gated=True)
    draw([update])
    up, down, gate = (p.detach().numpy() for p in (update.up, update.down, update.gate) if p is not None)
    expected = weight.numpy().copy()
    for number, rows in enumerate((slice(0, 2), slice(4, 6))):  # the middle group is left alone
        expected[rows] += 0.5 * up[number] @ np.diag(gate[number, 0]) @ down[number]
    np.testing.assert_allclose(update(weight).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_merging_keeps_what_the_gates_left() -> None:
    weight = torch.zeros(6, 4)
    update = LowRank(weight, 3, [0, 1, 2], 3, gated=True)
    for most in (2, 5):  # of components in a group: two, then three more
        draw([update])
        assert update.gate is not None
        with torch.no_grad():
            update.gate[0, 0, 1:] = 0
            update.gate[1, 0, : 1 if most == 2 else 0] = 0
            update.gate[2, 0, :2] = 0
            before = update(weight)
            update.merge()
            update.reset("normal")
        assert update.merged_up.shape == (3, 2, most)
        torch.testing.assert_close(update(weight), before)


def test_folding_gives_the_original_architecture_back(tiny: Tiny) -> None:
    backbone, plain = tiny(), tiny()
    draw(add_low_rank(backbone, rank=2, targets=["q", "v", "o", "proj"], towers="both"))
    before = outputs(backbone)
    fold(backbone)
    assert max(differences(outputs(backbone), before)) < 1e-6
    assert backbone.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in backbone.modules()] == [type(m) for m in plain.modules()]


def test_factors_begin_in_the_range_of_a_linear_layer() -> None:
    update = LowRank(torch.zeros(4, 400), 8, [0], 1)
    update.reset()
    assert 0.95 * 400**-0.5 < float(update.down.detach().abs().max()) <= 400**-0.5


@pytest.mark.parametrize(("rule", "expected"), [("code", [2.0, 0, 0, -1.5]), ("exact", [2.0, 0.5, 0, -1.5])])
def test_thresholds(rule: str, expected: list[float]) -> None:
    values = torch.tensor([3.0, 1.5, -0.5, -2.5])
    assert soft_threshold(values, 1.0, rule).tolist() == expected  # type: ignore[arg-type]  # a Literal
    assert torch.equal(soft_threshold(values, 0.0, rule), values)  # type: ignore[arg-type]  # a Literal


def test_a_tower_of_other_blocks_is_refused(tiny: Tiny) -> None:
    backbone = tiny()
    backbone.vision = None
    with pytest.raises(ValueError, match="need a vision tower of open_clip's own blocks"):
        add_low_rank(backbone, rank=1, targets=["q"], towers="both")
