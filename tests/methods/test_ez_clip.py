"""EZ-CLIP follows the official code; tests/golden/ez_clip_official.json says how it was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbones.open_clip import OpenClip
from everclip.losses.motion import movement
from everclip.methods.ez_clip import EzClip
from everclip.modules.block_parts import DropPath
from everclip.types import Batch, ClassTexts
from tests.methods import official_clip as official
from tests.methods.test_cpe_clip import EVERY, Tiny, make_session, no_extract

NONE = ClassTexts({}, "class_texts=none")
CLIPS = official.values(51, 6, 4, 3, 32, 32)
BATCH = Batch(CLIPS, official.LABELS, torch.arange(6))


def make(backbone: OpenClip, **options: Any) -> EzClip:
    settings = {"class_texts": NONE, "num_frames": 4, "prompt_dropout": 0.0, "drop_path": 0.0} | options
    return EzClip(backbone, **settings)


def named(method: EzClip) -> dict[str, Tensor]:
    """What is trained, by official names, in the order of the golden figures."""
    assert method.temporal is not None
    found: dict[str, Tensor] = {"visual.transformer.T_prompt_embeddings": method.temporal.tokens}
    for tower, prefix in (("vision", "visual."), ("text", "")):
        for name, weight in method.adapters[tower].named_parameters():
            block, layer, kind = name.split(".")
            layer = {"down": "D_fc1", "up": "D_fc2"}[layer]
            found[f"{prefix}transformer.resblocks.{block}.Adapter.{layer}.{kind}"] = weight
    return found


def test_a_step_follows_the_official_code(tmp_path: Path, golden: Callable[[str], Any]) -> None:
    method, expected = make(official.make_backbone(tmp_path)).double(), golden("ez_clip_official")
    method.begin_session(official.session(), official.see)  # type: ignore[arg-type]  # no views here
    trained = named(method)
    official.fill(*trained.values())
    assert trained.keys() == expected["gradients"].keys()
    assert sum(weight.numel() for weight in trained.values()) == method.num_trainable()
    with torch.no_grad():
        official.close(method.logits(CLIPS, official.CLASSES), expected["logits"], "logits")
        (frames,) = method._read_clips(CLIPS)
    assert official.summary(frames) == pytest.approx(expected["frames"], rel=1e-9)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.2)
    losses = method.loss(BATCH)
    assert {term: float(loss.detach()) for term, loss in losses.items()} == pytest.approx(expected["losses"], rel=1e-9)
    torch.stack(list(losses.values())).sum().backward()
    for name, weight in trained.items():
        assert official.summary(weight.grad) == pytest.approx(expected["gradients"][name], rel=1e-7, abs=1e-9), name
    optimizer.step()
    for name, weight in trained.items():
        assert official.summary(weight) == pytest.approx(expected["updated"][name], rel=1e-7, abs=1e-7), name
    with torch.no_grad():
        official.close(method.logits(CLIPS, official.CLASSES), expected["after"], "logits after the step")


def test_left_out_positions_are_those_of_the_official_code(golden: Callable[[str], Any], monkeypatch: Any) -> None:
    drop, x = DropPath(0.25), official.values(52, 6, 2, 8).transpose(0, 1)  # tokens come first there
    monkeypatch.setattr(torch, "rand", lambda *shape, device: torch.tensor([1, 0, 1, 1, 1, 0.0])[:, None])
    kept = drop.of(x)
    official.close(kept[:, :, 0].T, golden("ez_clip_official")["dropped"], "kept")
    torch.testing.assert_close(drop(x, x), kept - x)
    assert torch.equal(drop.eval().of(x), x)


def test_parameter_count_on_vit_b16_is_the_published_one() -> None:
    def count(**options: Any) -> int:
        backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
        return EzClip(backbone, class_texts=NONE, **options).num_trainable()

    assert count() == 5_204_736  # 5.2M in the paper
    assert count(towers="vision", num_frames=None) == 3_550_464
    assert count() - count(num_frames=None) == 73_728


def started(tiny: Tiny, **options: Any) -> EzClip:
    torch.manual_seed(0)
    method = make(tiny(), **options)  # type: ignore[arg-type]  # an open_clip model
    method.begin_session(make_session(0), no_extract)
    return method.eval()


def clips(count: int = 2, frames: int = 4) -> Tensor:
    return torch.randn(count, frames, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_without_temporal_tokens_it_begins_as_the_frame_mean(tiny: Tiny) -> None:
    plain, method = started(tiny, num_frames=None), started(tiny)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(plain.encode_image(clips()), plain.backbone.encode_image(clips()), **close)
    torch.testing.assert_close(
        plain.class_features(EVERY), plain.backbone.encode_text(plain.backbone.tokenize(EVERY.first_prompts())), **close
    )
    assert not torch.allclose(method.encode_image(clips()), plain.encode_image(clips()), atol=1e-3)


@torch.no_grad()
def test_the_order_of_frames_matters_through_the_learned_tokens_alone(tiny: Tiny) -> None:
    method, order = started(tiny), [2, 0, 3, 1]
    assert method.temporal is not None
    before = method.encode_image(clips())
    assert not torch.allclose(method.encode_image(clips()[:, order]), before, atol=1e-4)
    method.temporal.tokens.copy_(method.temporal.tokens[:, order])
    torch.testing.assert_close(method.encode_image(clips()[:, order]), before)


@torch.no_grad()
def test_clips_of_another_length_take_the_tokens_of_the_same_moments(tiny: Tiny) -> None:
    method, twice = started(tiny), started(tiny, num_frames=8)
    assert method.temporal is not None
    assert twice.temporal is not None
    twice.temporal.tokens.copy_(method.temporal.tokens.repeat_interleave(2, dim=1))
    shown = clips(frames=8)
    torch.testing.assert_close(method.encode_image(shown), twice.encode_image(shown))
    one = method.encode_image(clips()[:, 0])
    torch.testing.assert_close(one, method.encode_image(clips()[:, :1]))


def test_clips_pass_in_pieces_with_the_same_gradients(tiny: Tiny) -> None:
    gradients = []
    for pieces in (1, 2):
        method = started(tiny)
        method.backbone.pieces = pieces
        losses = method.loss(Batch(clips(3), torch.tensor([0, 1, 0]), torch.arange(3)))
        torch.stack(list(losses.values())).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_the_loss_of_motion_is_1_for_clips_at_rest_and_falls_with_what_moves(tiny: Tiny) -> None:
    still = clips()[:, :1, 0, 0].expand(-1, 4, -1)
    assert movement(still).tolist() == [0, 0]
    ramp = torch.tensor([[[0.0], [1.0], [2.0], [5.0]]])
    assert movement(ramp).item() == pytest.approx((0.5 + 1 + 2 + 1.5) / 4 + 14 / 3)
    method, labels = started(tiny), torch.tensor([0, 1])
    assert method.loss(Batch(clips(), labels, torch.arange(2)))["motion"] < 1
    assert set(method.loss(Batch(clips()[:, 0], labels, torch.arange(2)))) == {"contrastive"}
    assert set(started(tiny, motion_weight=0.0).loss(Batch(clips(), labels, torch.arange(2)))) == {"contrastive"}


def test_pairs_are_matched_with_their_own_texts(tiny: Tiny) -> None:
    method = started(tiny, motion_weight=0.0)
    names = tuple(EVERY.first_prompts()[:2])
    labelled = Batch(clips(), torch.tensor([0, 1]), torch.arange(2))
    pairs = replace(labelled, labels=torch.tensor([-1, -1]), texts=names)
    torch.testing.assert_close(method.loss(pairs), method.loss(labelled))


@torch.no_grad()
def test_descriptions_stand_for_templates(tiny: Tiny) -> None:
    texts = ClassTexts({name: (f"{name} on paper", "other") for name in EVERY.names}, "class_texts=file")
    method, plain = started(tiny, class_texts=texts), started(tiny)
    wanted = plain.encode_text([f"{name} on paper" for name in EVERY.names])
    torch.testing.assert_close(method.class_features(EVERY), wanted)
    batch = Batch(clips(), torch.tensor([1, 2]), torch.arange(2))
    assert not torch.allclose(method.loss(batch)["contrastive"], plain.loss(batch)["contrastive"])


def test_layers_are_left_out_in_training_alone(tiny: Tiny) -> None:
    method = started(tiny, drop_path=0.5, prompt_dropout=0.5)
    whole = started(tiny)
    with torch.no_grad():
        torch.testing.assert_close(method.encode_image(clips()), whole.encode_image(clips()))
        first, second = (method.train().encode_image(clips()) for _ in range(2))
        assert not torch.allclose(first, second)
        assert F.cosine_similarity(first, second).min() > 0
        texts = ["a red star"]
        assert not torch.allclose(method.encode_text(texts), method.eval().encode_text(texts))
    assert not any(isinstance(module, nn.Dropout) for module in method.temporal.modules())  # type: ignore[union-attr]
