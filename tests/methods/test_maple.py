from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everclip.methods.maple import Maple
from everclip.modules.prompts import DeepPrompts
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import Tiny, make_batch


def test_two_steps_follow_the_official_code(tmp_path: Path) -> None:
    method = Maple(official.make_backbone(tmp_path), depth=3).double()
    maps = {f"maps.{name}": parameter for name, parameter in method.maps.named_parameters()}
    official.fill(*method.context.tokens[1:], *maps.values())
    official.check_steps(method, {"tokens": method.context.tokens, **maps}, "maple")


def test_maps_without_weights_leave_tokens_that_all_texts_share(tiny: Tiny) -> None:
    method, images = Maple(tiny(), depth=3), make_batch([0, 1]).images
    with torch.no_grad():
        for linear in method.maps:
            linear.weight.zero_()
        biases = torch.stack([linear.bias.expand(2, -1) for linear in method.maps])
        expected = method.backbone.encode_image(images, DeepPrompts(biases, "replace", "end"))
        torch.testing.assert_close(method.encode_image(images), expected)


def test_the_deeper_maps_begin_alike(tiny: Tiny) -> None:
    first, second, third = (linear.weight for linear in Maple(tiny(), depth=3).maps)
    assert second.equal(third)
    assert not first.equal(second)


def test_more_blocks_than_a_tower_has_are_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="prompts for 5 blocks, but the text tower has 4"):
        Maple(tiny(), depth=5)
