from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import everclip
from everclip.backbones.open_clip import OpenClip
from everclip.methods.finetune import Finetune
from everclip.methods.lora import Lora
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import Adapted, load_session, restore
from everclip.types import Batch
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def step(method: Lora, labels: list[int], times: int = 1) -> None:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for number in range(times):
        optimizer.zero_grad()
        method.loss(make_batch(labels, seed=number))["cross_entropy"].backward()
        optimizer.step()


def logits(method: Lora) -> Tensor:
    with torch.no_grad():
        return method.logits(make_batch([0, 3], seed=9).images, EVERY)


def test_parameter_count_on_vit_b16() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    # Per block 4 projections of (D, D) and two of (D, 4 D): 16 * (4 * 2 D + 2 * 5 D) values, 12 blocks per tower.
    assert Lora(backbone).num_trainable() == 16 * 18 * 12 * (768 + 512)
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert Lora(backbone, rank=4, targets=["q", "v"], towers="text").num_trainable() == 4 * 2 * 2 * 12 * 512


def test_one_update_of_three_projections_is_not_beside_its_parts(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="qkv is one update of q, k and v; name either it or these"):
        Lora(tiny(), targets=["qkv", "k"])
    method = Lora(tiny(), rank=2, targets=["qkv"], towers="text", dropout=0.1)
    assert method.couples_batch
    assert method.num_trainable() == 2 * (1 + 3) * 4 * 96


def test_only_factors_are_trained_and_stored(tiny: Tiny) -> None:
    method = Lora(tiny(), rank=2)
    adapted = Adapted(method)
    method.begin_session(make_session(0), no_extract)
    step(method, [0, 1, 2])
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in trained} == {"down", "up"}
    assert adapted.tensors().keys() == adapted.between_steps().keys() == trained


@pytest.mark.parametrize("merge", [True, False])
def test_a_second_session_goes_on_from_the_first(tiny: Tiny, merge: bool) -> None:
    method = Lora(tiny(), rank=2, merge=merge)
    start = logits(method)
    method.begin_session(make_session(0), no_extract)
    torch.testing.assert_close(logits(method), start, rtol=0, atol=1e-4)
    step(method, [0, 1, 2])
    trained, factors = logits(method), method.parts[0].up.detach().clone()
    assert float((trained - start).abs().max()) > 0.1
    method.begin_session(make_session(1), no_extract)
    torch.testing.assert_close(logits(method), trained, rtol=0, atol=1e-4)
    assert bool(method.parts[0].up.any()) == (not merge)
    assert torch.equal(method.parts[0].up, factors) == (not merge)


def test_merged_updates_are_counted_before(tiny: Tiny) -> None:
    method = Lora(tiny(), rank=2, merge=True)
    counted = method.kept_bytes([3, 2], 0) - method.kept_bytes([3], 0)
    for part in method.parts:
        part.merge()
    assert counted == sum(part.merged_up.nbytes + part.merged_down.nbytes for part in method.parts)
    assert Lora(tiny(), rank=2).grown_bytes([3, 2], 0) == 0


def test_a_merged_session_is_restored_to_the_last_bit(tiny: Tiny) -> None:
    method = Lora(tiny(), rank=2, merge=True)
    adapted = Adapted(method)
    for index, labels in enumerate(([0, 1], [3, 4])):
        method.begin_session(make_session(index), no_extract)
        step(method, labels)
    other = Lora(tiny(), rank=2, merge=True)
    restore(other, adapted.tensors())
    assert torch.equal(logits(other), logits(method))


def test_alpha_scales_the_update(tiny: Tiny) -> None:
    method = Lora(tiny(), rank=4, alpha=2.0, targets=["fc"])
    update = method.parts[0]
    torch.nn.init.ones_(update.up)
    torch.nn.init.ones_(update.down)
    zero = torch.zeros(update.up.shape[1], update.down.shape[2])
    assert torch.equal(update(zero), zero + 0.5 * 4)


def test_the_loss_is_that_of_fine_tuning(tiny: Tiny) -> None:
    method, plain = Lora(tiny()), Finetune(tiny())
    for one in (method, plain):
        one.begin_session(make_session(1), no_extract)
    batch = make_batch([3, 4])
    torch.testing.assert_close(method.loss(batch), plain.loss(batch), rtol=1e-5, atol=1e-5)


def test_a_loaded_run_of_one_step_per_session_scores_as_it_did(run: Callable[..., RunFolder]) -> None:
    # After one step `down` is still as it was drawn; it must be in the checkpoint all the same.
    folder = run("method=lora", "train.max_steps=1", "max_sessions=1", "method.rank=2")
    tensors, _ = load_session(folder.checkpoint(0))
    assert {name.rpartition(".")[2] for name in tensors} == {"down", "up"}
    model = everclip.load(folder.path)
    drawn = [value for name, value in tensors.items() if name.endswith("down")]
    assert all(bool(value.any()) for value in drawn)
    loaded = model.method.state_dict()
    assert [name for name, value in tensors.items() if not torch.equal(loaded[name], value)] == []


def test_dropout_is_for_what_attention_reads(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"dropout=0\.1 is for updates of q, k and v, not of fc; leave these out"):
        Lora(tiny(), targets=["q", "fc"], dropout=0.1)
    assert Lora(tiny(), targets=["q"], dropout=0.1).couples_batch
    assert not Lora(tiny()).couples_batch


@pytest.mark.parametrize(("setting", "dropout"), [("plain", 0.0), ("dropout", 0.25)])
def test_a_step_of_clip_lora_follows_the_official_code(
    tiny: Tiny, setting: str, dropout: float, golden: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Lora(tiny().double(), rank=2, alpha=2**0.5, targets=["q", "k", "v"], dropout=dropout).train()
    method.begin_session(make_session(0), no_extract)
    factors = [factor.detach()[group] for u in method.parts for group in range(3) for factor in (u.down, u.up)]
    stream, masks = np.random.RandomState(0), np.random.RandomState(1)
    for factor in factors:
        factor.copy_(torch.from_numpy(0.1 * stream.standard_normal(tuple(factor.shape))))

    def dropped(x: Tensor, p: float) -> Tensor:
        length = 77 if len(x) == 3 else x.shape[1]  # the code's texts are as long as the context
        kept = masks.random_sample((len(x), length, x.shape[2])) >= p
        return x * torch.from_numpy(kept[:, : x.shape[1]]) / (1 - p)

    monkeypatch.setattr("torch.nn.functional.dropout", dropped)
    images = torch.from_numpy(np.random.RandomState(2).standard_normal((4, 3, 32, 32)))
    batch = Batch(images, torch.tensor([0, 1, 2, 0]), torch.arange(4))
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-4, weight_decay=1e-2)
    loss = method.loss(batch)["cross_entropy"]
    loss.backward()
    gradients = [factor.grad[group] for u in method.parts for group in range(3) for factor in (u.down, u.up)]
    optimizer.step()
    expected = golden("lora_official")[setting]
    assert float(loss.detach()) == pytest.approx(expected["loss"], abs=1e-5)
    assert [float(g.norm()) for g in gradients] == pytest.approx(expected["gradient_norms"], rel=1e-5)
    places = {"": 24, "visual.": 0}
    for kept, found in (("gradients", gradients), ("updated", factors)):
        for name, values in expected[kept].items():
            tower, _, rest = name.partition("transformer.resblocks.")
            block, projection, factor = int(rest[0]), rest.split(".")[2][0], rest[-1]
            place = places[tower] + 6 * block + 2 * "qkv".index(projection) + "AB".index(factor)
            assert found[place].flatten()[:6].tolist() == pytest.approx(values, rel=1e-5, abs=1e-9), name
