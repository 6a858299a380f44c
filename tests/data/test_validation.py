"""A part of the training pictures in place of the test set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from everclip.data.images import ArrayImages
from everclip.data.validation import hold_out
from everclip.errors import DataError
from tests.data.test_sequences import small


def picture_ids(images: ArrayImages) -> set[bytes]:
    return {picture.tobytes() for picture in images._pixels[images._rows]}


def test_the_judges_are_training_pictures_that_are_not_trained_on(cache_dir: Path) -> None:
    whole = small(cache_dir, train_per_class=6, shots=3)
    held = hold_out(whole, 0.2)
    assert held.held_out is None
    for before, session, task, test in zip(whole.sessions, held.sessions, held.tasks, whole.tasks, strict=True):
        kept, judged = picture_ids(session.train), picture_ids(task.samples)
        assert kept | judged == picture_ids(before.train)
        assert not kept & judged
        assert not judged & picture_ids(test.samples)
        each = Counter(task.samples.labels.tolist())
        assert dict(each) == dict.fromkeys(session.new.ids, 2 if session.is_base else 1)  # a fifth, rounded up
    assert hold_out(small(cache_dir, train_per_class=6, shots=3), 0.2).fingerprint() == held.fingerprint()


def test_one_picture_of_a_class_stays_for_training(cache_dir: Path) -> None:
    held = hold_out(small(cache_dir), 0.5)
    assert len(held.sessions[1].train) == len(held.tasks[1].samples) == 2  # two classes of two shots
    with pytest.raises(DataError, match=r"validation needs two training pictures of each class, .* has 1"):
        hold_out(small(cache_dir, shots=1), 0.5)
