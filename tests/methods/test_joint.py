from __future__ import annotations

import numpy as np
import torch

from everclip.data.images import ArrayImages
from everclip.methods.joint import Joint
from everclip.types import Session
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def test_every_session_starts_from_the_pretrained_weights(tiny: Tiny) -> None:
    method, pristine = Joint(tiny()), tiny()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(1.0)
    method.begin_session(make_session(1), no_extract)
    state = method.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in pristine.state_dict().items())


def test_small_classes_are_repeated_in_turn(tiny: Tiny) -> None:
    labels = np.array([0, 0, 0, 0, 0, 3, 3])
    images = ArrayImages(np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3), labels, "numbers")
    session = Session(1, "s", EVERY.select([3]), EVERY.select([0, 3]), images)
    (balanced,) = Joint(tiny(), balanced=True).phases(session)
    assert np.bincount(balanced.data.labels).tolist() == [5, 0, 0, 5]
    (whole,) = Joint(tiny(), balanced=False).phases(session)
    assert np.bincount(whole.data.labels).tolist() == [5, 0, 0, 2]


def test_the_loss_is_over_all_seen_classes(tiny: Tiny) -> None:
    method = Joint(tiny())
    method.begin_session(make_session(1), no_extract)
    batch = make_batch([0, 4])
    log_p = method.logits(batch.images, EVERY).log_softmax(1)
    torch.testing.assert_close(method.loss(batch)["cross_entropy"], -(log_p[0, 0] + log_p[1, 4]) / 2)
