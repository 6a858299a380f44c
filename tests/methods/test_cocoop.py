from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from everclip.methods.cocoop import Cocoop
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def test_two_steps_follow_the_official_code(tmp_path: Path) -> None:
    method = Cocoop(official.make_backbone(tmp_path)).double()
    shift = {f"shift.{name}": parameter for name, parameter in method.shift.named_parameters()}
    official.fill(*shift.values())
    official.check_steps(method, {"tokens": method.context.tokens[0], **shift}, "cocoop")


def figures(tiny: Tiny, chunk: int) -> tuple[Tensor, list[Tensor]]:
    """Loss, and the gradient of everything that is trained."""
    torch.manual_seed(0)
    method = Cocoop(tiny(), chunk=chunk).double()
    method.begin_session(make_session(0), no_extract)
    batch = make_batch([0, 1, 2, 0])
    batch.images.data = batch.images.double()
    loss = method.loss(batch)["cross_entropy"]
    loss.backward()
    return loss, [p.grad for p in method.parameters() if p.requires_grad]


def test_chunks_change_nothing(tiny: Tiny) -> None:
    loss, gradients = figures(tiny, 1024)
    for chunk in (1, 6, 9):  # one, two, three pictures of three classes
        other, others = figures(tiny, chunk)
        torch.testing.assert_close(other, loss)
        torch.testing.assert_close(others, gradients)


def test_a_chunk_bounds_the_texts_of_a_pass(tiny: Tiny) -> None:
    method, rows = Cocoop(tiny(), chunk=10), []  # a row per picture, with all its texts
    method.backbone.model.transformer.resblocks[0].ln_1.register_forward_pre_hook(
        lambda module, inputs: rows.append(len(inputs[0]))
    )
    with torch.no_grad():
        method.logits(make_batch([0, 1, 2, 0, 1]).images, EVERY)
    assert rows == [2, 2, 1]


def test_without_a_shift_a_picture_meets_the_texts_as_they_are(tiny: Tiny) -> None:
    method, images = Cocoop(tiny()), make_batch([0, 1]).images
    with torch.no_grad():
        for parameter in method.shift[2].parameters():
            parameter.zero_()
        expected = method.backbone.logit_scale * method.encode_image(images) @ method.class_features(EVERY).T
        torch.testing.assert_close(method.logits(images, EVERY), expected)
