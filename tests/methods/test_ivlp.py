from __future__ import annotations

from pathlib import Path

import torch

from everclip.methods.ivlp import Ivlp
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import Tiny, make_batch


def test_two_steps_follow_the_official_code(tmp_path: Path) -> None:
    method = Ivlp(official.make_backbone(tmp_path), text_length=3, vision_length=2, vision_depth=2).double()
    assert method.prompts is not None
    official.fill(*method.context.tokens[1:], *method.prompts)
    official.check_steps(method, {"tokens": method.context.tokens, "prompts": method.prompts}, "ivlp")


def test_without_tokens_of_the_image_tower_pictures_stay_as_they_are(tiny: Tiny) -> None:
    method, images = Ivlp(tiny(), vision_length=0), make_batch([0, 1]).images
    with torch.no_grad():
        assert torch.equal(method.encode_image(images), method.backbone.encode_image(images))
    assert method.num_trainable() == 4 * 2 * 96
