from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.methods.conpet import Conpet
from everclip.methods.lora import Lora
from everclip.modules.experts import NOBODY
from everclip.types import Batch, ClassSet, Session
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract

LABELS = np.array([0, 1, 2] * 6 + [3, 4] * 4)
PICTURES = ArrayImages(np.zeros((26, 32, 32, 3), np.uint8), LABELS, "zeros")
IMAGES = make_batch([0] * 6, seed=9).images
OLD, NEW = EVERY.select([0, 1, 2]), EVERY.select([3, 4])


def sessions(kept: list[int] | None = None) -> tuple[Session, Session]:
    """Three classes of six pictures, then two of four."""
    first = replace(make_session(0), train=PICTURES.subset(range(18)))
    memory = PICTURES.subset(range(18) if kept is None else kept)
    return first, replace(make_session(1), train=PICTURES.subset(range(18, 26)), memory=memory, offset=18)


def third_session() -> Session:
    """Two more classes of six pictures."""
    more = ClassSet((7, 9), ("blue star", "red heart"))
    images = ArrayImages(np.zeros((12, 32, 32, 3), np.uint8), np.array([7, 9] * 6), "more")
    return Session(2, "s2", more, ClassSet.union([EVERY, more]), images, PICTURES, offset=26)


def make(tiny: Tiny, **options: object) -> Conpet:
    torch.manual_seed(0)
    return Conpet(tiny(), **options)  # type: ignore[arg-type]  # keywords of one test


def step(method: Conpet, loss: Callable[[Batch], dict[str, Tensor]], labels: list[int], count: int = 2) -> None:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for number in range(count):
        optimizer.zero_grad()
        torch.stack(list(loss(make_batch(labels, seed=number)).values())).sum().backward()
        optimizer.step()


def first_session(method: Conpet) -> None:
    """Trains the first expert and begins the second session."""
    first, second = sessions()
    method.begin_session(first, no_extract)
    step(method, method.loss, [0, 1, 2])
    method.end_session(first, no_extract)
    method.begin_session(second, no_extract)


def both_sessions(method: Conpet) -> None:
    first_session(method)
    step(method, method.expert_loss, [0, 3, 4])


@torch.no_grad()
def logits(method: Conpet, classes: ClassSet) -> Tensor:
    return method.logits(IMAGES, classes)


@torch.no_grad()
def prefer(method: Conpet, number: int) -> None:
    """Makes the selector choose one expert whatever the picture."""
    method.selector.rows.zero_()
    method.selector.rows[method.selector.owners == number, -1] = 1.0


def test_parameter_count_on_vit_b16() -> None:
    method = Conpet(OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False))
    # q and v of 12 blocks in two towers, factors (4, D) and (D, 4)
    assert method.num_trainable() == 2 * 12 * 2 * 4 * (768 + 512) == 245_760


def test_an_expert_begins_as_the_frozen_model(tiny: Tiny) -> None:
    method = make(tiny)
    frozen = logits(method, EVERY)
    assert torch.equal(logits(make(tiny), EVERY), frozen)
    method.begin_session(sessions()[0], no_extract)
    torch.testing.assert_close(logits(method, EVERY), frozen)
    step(method, method.loss, [0, 1, 2])
    trained = logits(method, EVERY)
    assert bool((trained[:, :3] != frozen[:, :3]).all())
    torch.testing.assert_close(trained[:, 3:], frozen[:, 3:])  # nobody has learned these
    method.begin_session(sessions()[1], no_extract)
    torch.testing.assert_close(logits(method, OLD), trained[:, :3])
    torch.testing.assert_close(logits(method, NEW), frozen[:, 3:])


def test_earlier_experts_and_the_backbone_stay_to_the_last_bit(tiny: Tiny) -> None:
    method = make(tiny, top_k=2)
    first_session(method)
    before = {n: p.clone() for n, p in method.state_dict().items() if "down" not in n and "up" not in n}
    expected = logits(method, OLD)
    step(method, method.expert_loss, [0, 3, 4])
    after = method.state_dict()
    assert [n for n, p in before.items() if n != "selector.rows" and not torch.equal(p, after[n])] == []
    assert torch.equal(logits(method, OLD), expected)


def test_all_experts_are_those_side_by_side(tiny: Tiny) -> None:
    method = make(tiny, top_k=2)
    both_sessions(method)
    alone = torch.cat([logits(method, OLD), logits(method, NEW)], dim=1)
    torch.testing.assert_close(logits(method, EVERY), alone)


@pytest.mark.parametrize(("number", "columns"), [(0, [0, 1, 2]), (1, [3, 4])])
def test_the_right_choice_makes_it_task_incremental(tiny: Tiny, number: int, columns: list[int]) -> None:
    method = make(tiny)
    both_sessions(method)
    prefer(method, number)
    among_all = logits(method, EVERY)
    torch.testing.assert_close(among_all[:, columns], logits(method, EVERY.select(columns)))
    others = [column for column in range(5) if column not in columns]
    assert bool((among_all[:, others] == -100).all())
    assert bool((among_all[:, columns] > -100).all())


@pytest.mark.parametrize("selector", ["classes", "experts"])
def test_a_growing_selector_keeps_its_rows(tiny: Tiny, selector: str) -> None:
    method = make(tiny, selector=selector)
    both_sessions(method)
    rows, scores = method.selector.rows.detach().clone(), method.scores(IMAGES).detach()
    assert len(rows) == (5 if selector == "classes" else 2)
    method.begin_session(third_session(), no_extract)
    assert torch.equal(method.selector.rows[: len(rows)], rows)
    torch.testing.assert_close(method.scores(IMAGES)[:, :2], scores)
    assert method.scores(IMAGES).shape == (6, 3)


@pytest.mark.parametrize(("mode", "selector"), [("dynamic", "classes"), ("dynamic", "experts"), ("static", "classes")])
def test_what_comes_with_a_session_is_counted_before(tiny: Tiny, mode: str, selector: str) -> None:
    method = make(tiny, mode=mode, selector=selector)
    counted, sizes = method.num_trainable(), [3, 2, 2]
    for number, session in enumerate((*sessions(), third_session())):
        method.begin_session(session, no_extract)
        counted += method.num_arriving(sizes[: number + 1])
        assert method.num_trainable() == counted


def test_rows_of_an_expert_add_their_probabilities(tiny: Tiny) -> None:
    method = make(tiny)
    first_session(method)
    with torch.no_grad():
        features = F.pad(method.backbone.encode_image(IMAGES, normalize=False), (0, 1), value=1.0)
        rows = (features @ method.selector.rows.T).softmax(dim=1)
        expected = torch.stack([rows[:, :3].sum(dim=1), rows[:, 3:].sum(dim=1)], dim=1)
        torch.testing.assert_close(method.scores(IMAGES).softmax(dim=1), expected)


def test_the_selector_reads_frozen_features_and_is_clipped(tiny: Tiny) -> None:
    method = make(tiny)
    first_session(method)
    method.zero_grad()
    method.selector_loss(make_batch([0, 3, 4]))["selector"].backward()
    assert all(factor.grad is None for factor in method.experts.factors)
    assert method.selector.rows.grad is not None
    assert float(method.selector.rows.grad.norm()) > 1
    method.before_step()
    assert float(method.selector.rows.grad.norm()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("top_k", "forced"), [(1, True), (1, False), (2, True)])
def test_the_loss_is_the_whole_one_but_for_a_constant(tiny: Tiny, top_k: int, forced: bool) -> None:
    method = make(tiny, top_k=top_k, teacher_forcing=forced)
    both_sessions(method)
    batch = make_batch([3, 0, 4, 1, 3, 2])
    own = torch.tensor([1, 0, 1, 0, 1, 0])
    with torch.no_grad():
        first = method.scores(batch.images).argmax(dim=1)
    chosen = torch.ones(6, 2, dtype=torch.bool) if top_k == 2 else F.one_hot(own if forced else first, 2).bool()
    method.zero_grad()
    method.expert_loss(batch)["cross_entropy"].backward()
    ours = [factor.grad for factor in method.experts.factors]
    assert all(gradient is not None for gradient in ours)
    method.zero_grad()
    with torch.no_grad(), method.experts.acting(0):
        old = method.backbone.logit_scale * method.encode_image(batch.images) @ method.class_features(OLD).T
    new = method.backbone.logit_scale * method.encode_image(batch.images) @ method.class_features(NEW).T
    whole = torch.where(chosen[:, [0, 0, 0, 1, 1]], torch.cat([old, new], dim=1), -100.0)
    F.cross_entropy(whole, batch.labels).backward()
    for gradient, factor in zip(ours, method.experts.factors, strict=True):
        torch.testing.assert_close(gradient, factor.grad, rtol=1e-4, atol=1e-6)


def test_a_batch_without_a_picture_for_the_expert_has_gradient_zero(tiny: Tiny) -> None:
    method = make(tiny)
    both_sessions(method)
    method.zero_grad()
    loss = method.expert_loss(make_batch([0, 2]))["cross_entropy"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(factor.grad is not None and not bool(factor.grad.any()) for factor in method.experts.factors)


def test_phases(tiny: Tiny) -> None:
    method = make(tiny, steps=7, new_per_old=3.0, selector_lr=0.5)
    first, second = sessions()
    method.begin_session(first, no_extract)
    (only,) = method.phases(first)
    assert (only.data, only.draws) == (None, None)
    method.end_session(first, no_extract)
    for session in (second, third_session()):
        method.begin_session(session, no_extract)
        selector, expert = method.phases(session)
        assert selector.parameters == (method.selector.rows,)
        assert (selector.lr, expert.lr) == (0.5, None)
        assert expert.parameters == method.experts.factors
        for phase in (selector, expert):
            assert phase.data is not None
            assert phase.draws is not None
            assert phase.draws.steps == 7
            drawn = phase.draws(np.random.default_rng(0), 8)
            assert [label in session.new.ids for label in phase.data.labels[drawn]] == [True] * 6 + [False] * 2
        method.end_session(session, no_extract)


def test_static_is_lora_among_all_classes(tiny: Tiny) -> None:
    method, plain = make(tiny, mode="static"), Lora(tiny(), rank=4, alpha=1.0, targets=["q", "v"], label_space="seen")
    first, second = sessions()
    for session in (first, second):
        for one in (method, plain):
            one.begin_session(session, no_extract)
    for ours, theirs in zip(method.experts.factors, (f for u in plain.parts for f in (u.down, u.up)), strict=True):
        theirs.data.copy_(ours.data)
    assert len(method.phases(second)) == 1
    losses = [one.loss(make_batch([3, 0, 4]))["cross_entropy"] for one in (method, plain)]
    torch.testing.assert_close(losses[0], losses[1])
    step(method, method.loss, [0, 3, 4])
    for factor, update in zip(method.experts.factors[::2], plain.parts, strict=True):
        update.down.data.copy_(factor.data)
    for factor, update in zip(method.experts.factors[1::2], plain.parts, strict=True):
        update.up.data.copy_(factor.data)
    with torch.no_grad():
        torch.testing.assert_close(logits(method, EVERY), plain.logits(IMAGES, EVERY))
    assert len(method.experts.earlier) == 0


def test_the_pool_is_everything_or_some_of_every_class(tiny: Tiny) -> None:
    whole = make(tiny)
    first, second = sessions()
    for session in (first, second):
        whole.begin_session(session, no_extract)
        whole.end_session(session, no_extract)
    assert whole.kept().tolist() == list(range(26))
    kept = []
    for later in (1, 2):
        few = make(tiny, per_class=2)
        for session in (first, second):
            torch.manual_seed(0)
            few.begin_session(session, no_extract)
            torch.manual_seed(later)
            few.end_session(session, no_extract)
        kept.append(few.kept().tolist())
    assert kept[0] == kept[1]
    assert np.bincount(LABELS[kept[0]]).tolist() == [2] * 5


def test_nobody_is_the_frozen_model(tiny: Tiny) -> None:
    method = make(tiny)
    both_sessions(method)
    with torch.no_grad(), method.experts.acting(NOBODY):
        frozen = method.encode_image(IMAGES)
    assert torch.equal(frozen, tiny().encode_image(IMAGES))
    assert not torch.equal(method.encode_image(IMAGES), frozen)
