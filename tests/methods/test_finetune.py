from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from everclip.methods.base import Method
from everclip.methods.finetune import Finetune
from everclip.modules.fine_tuning import unfreeze
from everclip.types import Batch
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def all_but_the_scale(tiny: Tiny, **options: Any) -> Finetune:
    """What methods that leave the logit scale alone are when nothing else tells them apart."""
    method = Finetune(tiny(), **options)
    unfreeze(method.backbone)
    return method


def train(method: Method, index: int, beside: Batch | None = None) -> None:
    """Begins a session and takes three AdamW steps, with the same pictures beside every batch."""
    session = make_session(index)
    method.begin_session(session, no_extract)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    for step in range(3):
        optimizer.zero_grad()
        batch = replace(make_batch(list(session.new.ids), seed=step), auxiliary=beside)
        torch.stack(list(method.loss(batch).values())).sum().backward()
        method.before_step()
        optimizer.step()
        method.after_step()


def assert_same_weights(method: Method, other: Method) -> None:
    ours, theirs = (dict(one.backbone.named_parameters()) for one in (method, other))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


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
