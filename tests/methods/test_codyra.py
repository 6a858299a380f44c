from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import Method
from everclip.methods.codyra import Codyra
from everclip.methods.lora import Lora
from everclip.training.checkpoint import Adapted, restore
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def train(method: Method, labels: list[int], steps: int) -> None:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for number in range(steps):
        optimizer.zero_grad()
        torch.stack(list(method.loss(make_batch(labels, seed=number)).values())).sum().backward()
        optimizer.step()
        method.after_step()


def logits(method: Method) -> Tensor:
    with torch.no_grad():
        return method.logits(make_batch([0, 3], seed=9).images, EVERY)


def gates(method: Codyra) -> Tensor:
    return torch.cat([update.gate.detach().flatten() for update in method.updates if update.gate is not None])


def test_parameter_count_on_vit_b16_is_the_published_one() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert Codyra(backbone).num_trainable() == 4_425_984


@pytest.mark.parametrize(("towers", "count"), [("vision", 2_655_360), ("text", 1_770_624)])
def test_parameter_count_of_a_tower_of_vit_b16(towers: str, count: int) -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert Codyra(backbone, towers=towers).num_trainable() == count  # type: ignore[arg-type]  # a Literal


def test_the_threshold_grows_as_in_the_official_loop(tiny: Tiny) -> None:
    method = Codyra(tiny(), rank=1, targets=["o"], towers="text", iterations=500, kappa_max=0.005)
    value, taken = 0, []
    for step in range(500):
        if step >= 250 and step % 5 == 0:
            value += 1
        taken.append(0.005 * min(49, value) / 49)
    assert [method.kappa(step) for step in range(500)] == pytest.approx(taken)
    assert sum(taken[251:]) == pytest.approx(0.65, abs=0.01)  # what every importance loses in a session


def test_a_short_session_reaches_the_threshold_too(tiny: Tiny) -> None:
    method = Codyra(tiny(), rank=1, targets=["o"], towers="text", iterations=8, kappa_max=0.4, kappa_steps=5)
    assert [method.kappa(step) for step in range(8)] == pytest.approx([0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4])


def test_both_losses_against_the_official_form(tiny: Tiny) -> None:
    method = Codyra(tiny(), rank=2)
    method.begin_session(make_session(1), no_extract)
    batch = make_batch([3, 4, 3])
    losses = method.loss(batch)
    with torch.no_grad():  # logits among all seen classes: old ones at -inf, or as rows without a picture
        whole = method.logits(batch.images, EVERY)
        masked = whole.clone()
        masked[:, :3] = -torch.inf
        has_class = (batch.labels[None] == torch.arange(5)[:, None]).float()
        text_to_image = F.cross_entropy(whole.T, has_class)
    torch.testing.assert_close(losses["image_to_text"].detach(), F.cross_entropy(masked, batch.labels))
    torch.testing.assert_close(losses["text_to_image"].detach(), text_to_image)


def test_sessions_begin_where_the_last_one_ended(tiny: Tiny) -> None:
    method = Codyra(tiny(), rank=3, iterations=4, kappa_max=0.5, kappa_steps=2)
    adapted = Adapted(method)
    start = logits(method)
    for index, labels in enumerate(([0, 1, 2], [3, 4])):
        method.begin_session(make_session(index), no_extract)
        assert not any(bool(update.up.any()) for update in method.updates)
        torch.testing.assert_close(logits(method), start, rtol=0, atol=2e-4)
        train(method, labels, steps=4)
        assert 0 < int((gates(method) == 0).sum()) < len(gates(method))
        start = logits(method)
    merged = max(update.merged_up.shape[-1] for update in method.updates)
    assert 0 < merged <= 3
    other = Codyra(tiny(), rank=3)
    restore(other, adapted.tensors())
    assert torch.equal(logits(other), start)
    assert int(other.step) == 4


def test_no_threshold_drops_nothing(tiny: Tiny) -> None:
    method = Codyra(tiny(), rank=3, iterations=4, kappa_max=0)
    method.begin_session(make_session(0), no_extract)
    train(method, [0, 1, 2], steps=4)
    assert not bool((gates(method) == 0).any())


def test_with_fixed_gates_of_one_and_no_threshold_it_is_lora(tiny: Tiny) -> None:
    method = Codyra(tiny(), rank=3, iterations=1, kappa_max=0, gate="ones", text_weight=0)
    plain = Lora(tiny(), rank=3, alpha=3.0, merge=True)
    for update in method.updates:
        assert update.gate is not None
        update.gate.requires_grad_(False)
    for index, labels in enumerate(([0, 1, 2], [3, 4])):
        for one in (method, plain):
            torch.manual_seed(0)
            one.begin_session(make_session(index), no_extract)
            train(one, labels, steps=2)
    for ours, theirs in zip(method.updates, plain.parts, strict=True):
        torch.testing.assert_close(ours.down, theirs.down)
        torch.testing.assert_close(ours.up, theirs.up)
    torch.testing.assert_close(logits(method), logits(plain))


def test_a_huge_threshold_leaves_the_weights_as_they_were(tiny: Tiny) -> None:
    method = Codyra(tiny(), rank=3, iterations=4, kappa_max=1e3, kappa_steps=2, gate="ones")
    start = logits(method)
    method.begin_session(make_session(0), no_extract)
    train(method, [0, 1, 2], steps=4)
    assert not bool(gates(method).any())
    assert torch.equal(logits(method), start)
    method.begin_session(make_session(1), no_extract)
    assert {update.merged_up.shape[-1] for update in method.updates} == {0}


def test_nothing_is_dropped_in_the_dense_part(tiny: Tiny) -> None:
    method = Codyra(tiny(), rank=3, iterations=4, kappa_max=10, kappa_steps=2, gate="ones")
    method.begin_session(make_session(0), no_extract)
    for active in (True, True, True, False):  # the code begins one step after half of the iterations
        method.after_step()
        assert bool(gates(method).any()) == active
