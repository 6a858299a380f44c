from __future__ import annotations

import pytest

from everclip.backbones.open_clip import OpenClip
from everclip.methods.bitfit import Bitfit
from tests.methods.test_cpe_clip import Tiny


def test_parameter_count_on_vit_b16() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    # Per block those of q, k, v, outputs, the two layers (4 D + D) and the two norms; norms around the blocks.
    assert Bitfit(backbone).num_trainable() == 12 * 11 * (768 + 512) + 2 * 768 + 512
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert Bitfit(backbone, towers="vision").num_trainable() == 102_912  # 0.10M in tables of others


def test_nothing_but_biases_is_trained(tiny: Tiny) -> None:
    method = Bitfit(tiny(), pattern=r".*\.c_fc\.bias")
    trained = {name for name, weight in method.named_parameters() if weight.requires_grad}
    assert len(trained) == 8
    assert {name.partition("mlp.")[2] for name in trained} == {"c_fc.bias"}
    every = Bitfit(tiny())
    assert {n for n, w in every.named_parameters() if w.requires_grad} == {
        n for n, w in every.named_parameters() if n.endswith("bias")
    }


def test_a_pattern_that_matches_nothing_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"no weight of vision and text tower matches '.*biases'; there is "):
        Bitfit(tiny(), pattern=r"visual\.ln_post\.biases")
