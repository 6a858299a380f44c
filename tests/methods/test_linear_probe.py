from __future__ import annotations

import math

import pytest
import torch

from everclip.methods.linear_probe import LinearProbe
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def test_new_classes_begin_undecided(tiny: Tiny) -> None:
    method = LinearProbe(tiny())
    method.begin_session(make_session(0), no_extract)
    batch = make_batch([0, 1, 2])
    assert method.loss(batch)["cross_entropy"].item() == pytest.approx(math.log(3))


def test_the_first_gradient_is_that_of_logistic_regression(tiny: Tiny) -> None:
    method = LinearProbe(tiny())
    method.begin_session(make_session(0), no_extract)
    batch = make_batch([0, 2, 2])
    method.loss(batch)["cross_entropy"].backward()
    with torch.no_grad():
        features = method.backbone.encode_image(batch.images)
    residual = torch.full((3, 3), 1 / 3) - torch.eye(3)[batch.labels]
    torch.testing.assert_close(method.head.rows.grad, residual.T @ features / 3)


def test_earlier_rows_get_no_gradient_later(tiny: Tiny) -> None:
    method = LinearProbe(tiny())
    for index in (0, 1):
        method.begin_session(make_session(index), no_extract)
    method.loss(make_batch([3, 4]))["cross_entropy"].backward()
    assert method.head.rows.grad[:3].abs().max() == 0
    assert method.head.rows.grad[3:].abs().min() > 0


def test_only_the_head_is_trained(tiny: Tiny) -> None:
    method = LinearProbe(tiny())
    method.begin_session(make_session(0), no_extract)
    method.begin_session(make_session(1), no_extract)
    assert method.num_trainable() == len(EVERY) * method.backbone.embed_dim
