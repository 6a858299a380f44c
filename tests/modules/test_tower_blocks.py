"""Which weights of a backbone's towers there are to be tuned."""

from __future__ import annotations

import pytest

from everclip.backbones.open_clip import OpenClip
from everclip.modules.tower_blocks import Towers, layer_norms


@pytest.mark.parametrize(
    ("towers", "outside", "values"),
    [
        ("both", True, 65_536),
        # What the code of arXiv 2503.11609 trains (FarinaMatteo/rethinking_fewshot_vlms @ 64ac143, model_utils.py).
        ("both", False, 61_440),
        ("vision", True, 12 * 4 * 768 + 4 * 768),
        ("text", False, 12 * 4 * 512),
    ],
)
def test_the_layer_norms_of_a_tower(towers: Towers, outside: bool, values: int) -> None:
    backbone = OpenClip(model="ViT-B-16", weights="random", load=False)
    assert sum(p.numel() for p in layer_norms(backbone, towers, outside_blocks=outside)) == values


def test_a_tower_without_layer_norms_is_refused() -> None:
    backbone = OpenClip(model="RN50", weights="random", load=False)
    with pytest.raises(ValueError, match="towers=vision has no LayerNorm"):
        layer_norms(backbone, "vision")
