from __future__ import annotations

from dataclasses import replace

import torch

from everclip.methods.zero_shot import ZeroShot
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch


def test_logits_are_scaled_cosines_of_open_clips_own_features(tiny: Tiny) -> None:
    method = ZeroShot(tiny())
    model, batch = method.backbone.model, make_batch([0, 1, 2])
    texts = method.backbone.tokenizer(EVERY.prompts(EVERY.templates[0]))  # 77 tokens, not cropped
    with torch.no_grad():
        image, text = model.encode_image(batch.images, normalize=True), model.encode_text(texts, normalize=True)
        torch.testing.assert_close(method.logits(batch.images, EVERY), model.logit_scale.exp() * image @ text.T)


def test_templates_are_averaged(tiny: Tiny) -> None:
    method = ZeroShot(tiny())
    two = replace(EVERY, templates=("a {}.", "a photo of a {}."))
    with torch.no_grad():
        parts = [method.class_features(replace(EVERY, templates=(template,))) for template in two.templates]
        expected = torch.nn.functional.normalize(parts[0] + parts[1], dim=-1)
        torch.testing.assert_close(method.class_features(two), expected)


def test_accuracy_on_all_classes_does_not_depend_on_the_split(tiny: Tiny) -> None:
    method = ZeroShot(tiny())
    images, halves = make_batch([0, 1]).images, (EVERY.select([0, 1, 2]), EVERY.select([3, 4]))
    with torch.no_grad():
        rows = torch.cat([method.class_features(half) for half in halves])
        torch.testing.assert_close(rows, method.class_features(EVERY))
        side_by_side = torch.cat([method.logits(images, half) for half in halves], dim=1)
        torch.testing.assert_close(side_by_side, method.logits(images, EVERY), rtol=1e-5, atol=1e-4)
