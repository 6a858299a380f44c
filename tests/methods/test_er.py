from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from everclip.data.images import ArrayImages, ConcatSamples
from everclip.errors import ConfigError
from everclip.memory.exemplars import reservoir
from everclip.methods.er import Er
from everclip.types import Session
from tests.methods.pairs import pair_batch, pair_session
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract
from tests.methods.test_finetune import all_but_the_scale, assert_same_weights, train

LABELS = np.array([0, 1, 2] * 6 + [3, 4] * 4)
PICTURES = ArrayImages(np.zeros((26, 32, 32, 3), np.uint8), LABELS, "zeros")


def sessions(method: Er) -> tuple[list[int], list[int]]:
    """Runs the hooks of two sessions without training; what is kept after each."""
    first = replace(make_session(0), train=PICTURES.subset(range(18)))
    method.begin_session(first, no_extract)
    method.end_session(first, no_extract)
    kept = method.kept().tolist()
    second = replace(make_session(1), train=PICTURES.subset(range(18, 26)), memory=PICTURES.subset(kept), offset=18)
    method.begin_session(second, no_extract)
    method.end_session(second, no_extract)
    return kept, method.kept().tolist()


def test_without_a_memory_it_is_fine_tuning(tiny: Tiny) -> None:
    method, plain = Er(tiny()), all_but_the_scale(tiny, label_space="seen")
    for one in (method, plain):
        train(one, 1)
    assert_same_weights(method, plain)


def test_the_loss_is_the_mean_over_both_batches(tiny: Tiny) -> None:
    method = Er(tiny())
    method.begin_session(make_session(1), no_extract)
    batch, shown = make_batch([3]), make_batch([0, 2], seed=1)
    log_p, shown_log_p = (method.logits(part.images, EVERY).log_softmax(1) for part in (batch, shown))
    loss = method.loss(replace(batch, auxiliary=shown))
    expected = -(log_p[0, 3] + shown_log_p[0, 0] + shown_log_p[1, 2]) / 3
    torch.testing.assert_close(loss, {"cross_entropy": expected})


def test_pairs_of_both_batches_are_compared_with_each_other(tiny: Tiny) -> None:
    method = Er(tiny())
    method.begin_session(pair_session(1), no_extract)
    batch, shown = pair_batch(("a red star", "a bee")), pair_batch(("a dog", "two boats", "a red bee"), seed=1)
    images, texts = torch.cat([batch.images, shown.images]), (*batch.texts, *shown.texts)  # type: ignore[misc]  # given
    logits = method.backbone.logit_scale * method.encode_image(images) @ method.encode_text(texts).T
    expected = -(logits.log_softmax(0) + logits.log_softmax(1)).diagonal().mean() / 2
    torch.testing.assert_close(method.loss(replace(batch, auxiliary=shown)), {"contrastive": expected})


def test_pairs_have_no_classes_to_balance(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="use reservoir where there are none"):
        Er(tiny(), selection="balanced").begin_session(pair_session(), no_extract)


def test_the_memory_is_a_second_stream(tiny: Tiny) -> None:
    method = Er(tiny(), replay_batch_size=5)
    session = replace(make_session(1), memory=PICTURES.subset([0, 1]))
    assert [(p.data, p.auxiliary, p.auxiliary_batch_size) for p in method.phases(session)] == [
        (None, session.memory, 5)
    ]


def test_the_memory_is_a_reservoir_over_all_sessions(tiny: Tiny) -> None:
    method = Er(tiny(), memory_size=7)
    torch.manual_seed(0)
    draws = torch.cat([torch.rand(n, dtype=torch.float64) for n in (18, 8)])
    torch.manual_seed(0)
    first, second = sessions(method)
    nothing = torch.empty(0, dtype=torch.long)
    assert first == reservoir(nothing, 0, draws[:18], 7).tolist()
    assert second == reservoir(nothing, 0, draws, 7).tolist()
    assert max(second) >= 18 > min(second)


def test_a_balanced_memory_keeps_equally_many_of_every_class(tiny: Tiny) -> None:
    first, second = sessions(Er(tiny(), memory_size=11, selection="balanced"))
    assert np.bincount(LABELS[first]).tolist() == [3, 3, 3]
    assert np.bincount(LABELS[second]).tolist() == [2] * 5
    assert set(second) & set(range(18)) <= set(first)
    with pytest.raises(ConfigError, match="does not hold one picture of each of 5 classes"):
        sessions(Er(tiny(), memory_size=4, selection="balanced"))


def test_a_class_that_returns_does_not_take_more_than_its_share(tiny: Tiny) -> None:
    method = Er(tiny(), memory_size=9, selection="balanced")
    seen, back = EVERY.select([0, 1, 2]), EVERY.select([0, 1])
    first = PICTURES.subset([0, 1, 2, 3, 4, 5])  # two of each class
    later = PICTURES.subset([i for i in range(6, 18) if LABELS[i] < 2])
    method.begin_session(session := Session(0, "s", seen, seen, first), no_extract)
    method.end_session(session, no_extract)
    memory = first.subset(method.kept().tolist())
    session = Session(1, "s", EVERY.select([]), seen, later, memory, len(first), returning=back)
    method.begin_session(session, no_extract)
    method.end_session(session, no_extract)
    assert sorted(ConcatSamples([first, later]).labels[method.kept()].tolist()) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert len(set(method.kept().tolist())) == 8


@pytest.mark.parametrize("selection", ["reservoir", "balanced"])
def test_what_to_keep_is_drawn_when_the_session_begins(tiny: Tiny, selection: str) -> None:
    method, kept = Er(tiny(), memory_size=6, selection=selection), list[list[int]]()  # type: ignore[arg-type]  # a Literal
    session = Session(0, "s0", EVERY.select([0, 1, 2]), EVERY.select([0, 1, 2]), PICTURES.subset(range(18)))
    for drawn, later in ((0, 1), (0, 2), (3, 1)):
        method.numbers = method.numbers[:0]
        torch.manual_seed(drawn)
        method.begin_session(session, no_extract)
        torch.manual_seed(later)
        method.end_session(session, no_extract)
        kept.append(method.kept().tolist())
    assert kept[0] == kept[1] != kept[2]
