from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from everclip.methods.finetune import Finetune
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def test_it_begins_as_zero_shot(tiny: Tiny) -> None:
    method, backbone, batch = Finetune(tiny()), tiny(), make_batch([0, 1])
    with torch.no_grad():
        image = backbone.encode_image(batch.images)
        text = backbone.encode_text(backbone.tokenize(EVERY.prompts(EVERY.templates[0])))
        torch.testing.assert_close(method.logits(batch.images, EVERY), backbone.logit_scale * image @ text.T)


def test_every_weight_is_trained(tiny: Tiny) -> None:
    method = Finetune(tiny())
    assert method.num_trainable() == sum(p.numel() for p in method.backbone.parameters())


@pytest.mark.parametrize(("label_space", "columns"), [("current", 2), ("seen", 5)])
def test_the_label_space_of_the_loss(tiny: Tiny, label_space: str, columns: int) -> None:
    method = Finetune(tiny(), label_space=label_space)  # type: ignore[arg-type]  # a Literal
    method.begin_session(make_session(1), no_extract)
    batch = make_batch([3, 4])
    logits = method.logits(batch.images, EVERY)[:, 5 - columns :]
    expected = F.cross_entropy(logits, batch.labels - (5 - columns))
    torch.testing.assert_close(method.loss(batch)["cross_entropy"], expected)


def test_label_smoothing_by_hand(tiny: Tiny) -> None:
    method = Finetune(tiny(), label_smoothing=0.2)
    method.begin_session(make_session(1), no_extract)
    batch = make_batch([3])
    log_p = method.logits(batch.images, EVERY.select([3, 4])).log_softmax(1)[0]
    torch.testing.assert_close(method.loss(batch)["cross_entropy"], -(0.9 * log_p[0] + 0.1 * log_p[1]))
