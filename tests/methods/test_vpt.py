from __future__ import annotations

from pathlib import Path

import pytest

from everclip.methods.vpt import Vpt
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


@pytest.mark.parametrize(("name", "depth"), [("vpt", None), ("vpt_shallow", 1)])
def test_two_steps_follow_the_official_code(name: str, depth: int | None, tmp_path: Path) -> None:
    method = Vpt(official.make_backbone(tmp_path), length=3, depth=depth).double()
    official.fill(*method.prompts)
    official.check_steps(method, {"prompts": method.prompts}, name)


def test_texts_are_read_once_per_session(tiny: Tiny) -> None:
    method = Vpt(tiny(), template=None)
    rows: list[int] = []
    method.backbone.model.transformer.resblocks[0].register_forward_pre_hook(
        lambda module, inputs: rows.append(len(inputs[0]))
    )
    method.begin_session(make_session(1), no_extract)
    for _ in range(2):
        method.loss(make_batch([3, 4]))
    assert rows == [2]
    assert method.templates(EVERY) == EVERY.templates
