from __future__ import annotations

from pathlib import Path

import torch

from everclip.methods.promptsrc import TEMPLATES, Promptsrc
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import EVERY, Tiny


def test_two_epochs_of_a_step_follow_the_official_code(tmp_path: Path) -> None:
    options = {"text_length": 4, "text_depth": 3, "vision_length": 3, "vision_depth": 2, "peak": 1.5, "spread": 0.8}
    method = Promptsrc(official.make_backbone(tmp_path), **options).double()  # type: ignore[arg-type]  # by name
    official.fill(*method.context.tokens[1:], *method.prompts)
    official.check_steps(method, {"tokens": method.context.tokens, "prompts": method.prompts}, "promptsrc")


def test_frozen_texts_are_means_over_sixty_templates(tiny: Tiny) -> None:
    method = Promptsrc(tiny(), text_depth=1, vision_depth=1)
    classes = EVERY.select([1, 3])
    texts = [template.replace("{}", name) for name in classes.names for template in TEMPLATES]
    assert len(set(texts)) == 120
    with torch.no_grad():
        rows = method.backbone.encode_text(method.backbone.tokenize(texts), normalize=False).unflatten(0, (2, 60))
    expected = torch.nn.functional.normalize(rows.mean(dim=1), dim=1)
    torch.testing.assert_close(method.read_templates(classes), expected)
