from __future__ import annotations

from pathlib import Path

import torch

from everclip.methods.pre import Pre
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import EVERY, Tiny


def test_encoder_and_two_steps_follow_the_official_code(tmp_path: Path) -> None:
    method = Pre(official.make_backbone(tmp_path)).double()
    weights = dict(method.encoder.named_parameters())
    official.fill(*weights.values())
    official.close(method.tokens()[0], official.golden()["pre"]["encoded"], "tokens behind the encoder")
    official.check_steps(method, {"tokens": method.context.tokens[0], **weights}, "pre")


def test_an_encoder_that_gives_nothing_leaves_the_words(tiny: Tiny) -> None:
    method = Pre(tiny())
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.zero_()
        texts = method.backbone.tokenize(EVERY.prompts("a photo of a {}."))
        torch.testing.assert_close(method.class_features(EVERY), method.backbone.encode_text(texts))
