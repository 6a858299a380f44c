from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import Method
from everclip.methods.coda_prompt import CodaPrompt
from everclip.methods.dualprompt import DualPrompt
from everclip.methods.l2p import L2p
from everclip.types import ClassSet
from tests.methods.test_cpe_clip import make_session, no_extract


@pytest.mark.parametrize(
    "make",
    [partial(CodaPrompt, num_sessions=10), partial(DualPrompt, num_sessions=10), L2p],
    ids=["coda", "dual", "l2p"],
)
def test_a_linear_layer_for_100_classes_on_vit_b16(make: Callable[..., Method]) -> None:
    method = make(OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False), head="linear")
    assert method.num_arriving([50]) == 50 * 768 + 50
    for index in (0, 1):
        new = ClassSet(tuple(range(50 * index, 50 * index + 50)), tuple(f"thing {number}" for number in range(50)))
        method.begin_session(replace(make_session(index), new=new), no_extract)
    trained = [p.numel() for p in method.get_submodule("head").parameters() if p.requires_grad]
    assert trained == [100 * 768 + 100]  # one row with a bias per class
