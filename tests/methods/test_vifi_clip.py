"""ViFi-CLIP follows the official code; tests/golden/vifi_clip_official.json says how it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.vifi_clip import VifiClip
from everclip.modules.mixing import Mixing, cut_out, mixed_up
from everclip.types import Batch
from tests.methods import official_clip as official

CLIPS = official.values(50, 6, 2, 3, 32, 32)
TARGETS = torch.eye(5, dtype=torch.double)[official.LABELS]
PARTNERS = torch.tensor([3, 0, 5, 1, 2, 4])


def mixed_as_recorded(self: Mixing, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return mixed_up(images, targets, 0.3, PARTNERS)


def followed(method: VifiClip) -> dict[str, Tensor]:
    """What figures were recorded of, by their names there, as far as it is trained."""
    if method.context is not None:
        pairs = {"context": method.context.tokens, "prompts": method.prompts}
        return {f"{name}.{block}": tokens[block] for name, tokens in pairs.items() for block in range(2)}
    names = {
        "visual.conv1.weight", "visual.transformer.resblocks.2.mlp.c_fc.bias", "visual.proj", "positional_embedding",
        "transformer.resblocks.0.attn.in_proj_weight", "text_projection", "logit_scale",
    }  # fmt: skip
    weights = method.backbone.model.named_parameters()
    return {name: weight for name, weight in weights if name in names and weight.requires_grad}


@pytest.mark.parametrize("trains", ["both", "vision", "text", "prompts"])
def test_a_step_follows_the_official_code(trains: Any, tmp_path: Path, golden: Callable[[str], Any]) -> None:
    method = VifiClip(official.make_backbone(tmp_path), trains=trains, prompt_length=3, prompt_depth=2).double()
    expected = golden("vifi_clip_official")[trains]
    if method.context is not None:
        official.fill(*method.context.tokens, *method.prompts)
    assert method.num_trainable() == expected["count"]
    method.begin_session(official.session(), official.see)  # type: ignore[arg-type]  # no views here
    trained = [weight for weight in method.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.98), weight_decay=1e-3)
    official.close(method.logits(CLIPS, official.CLASSES), expected["logits"], "logits")
    with patch.object(Mixing, "__call__", mixed_as_recorded):
        loss = method.loss(Batch(CLIPS, official.LABELS, torch.arange(6)))["cross_entropy"]
    assert float(loss.detach()) == pytest.approx(expected["loss"], rel=1e-9)
    loss.backward()
    gradients = {"context": None, "prompts": None}
    if method.context is not None:
        gradients = {"context": method.context.tokens.grad, "prompts": method.prompts.grad}
    for name, weight in followed(method).items():
        kind, _, block = name.partition(".")
        gradient = gradients[kind][int(block)] if kind in gradients else weight.grad
        assert official.summary(gradient) == pytest.approx(expected["gradients"][name], rel=1e-7, abs=1e-9), name
    optimizer.step()
    updated = followed(method)
    assert updated.keys() == expected["updated"].keys()
    for name, weight in updated.items():
        assert official.summary(weight) == pytest.approx(expected["updated"][name], rel=1e-7, abs=1e-7), name
    official.close(method.logits(CLIPS, official.CLASSES), expected["after"], "logits after the step")


def test_mixed_clips_and_targets_are_those_of_the_official_code(golden: Callable[[str], Any]) -> None:
    found = {
        "mixup": mixed_up(CLIPS, TARGETS, 0.3, PARTNERS),
        "cutmix": cut_out(CLIPS, TARGETS, 0.6, PARTNERS, (9, 20)),
    }
    for name, (images, targets) in found.items():
        expected = golden("vifi_clip_official")[name]
        assert official.summary(images) == pytest.approx(expected["images"], rel=1e-6)
        smoothed = 0.9 * targets + 0.1 / 5
        torch.testing.assert_close(smoothed.float(), torch.tensor(expected["targets"]).float())


def test_batches_are_mixed_in_either_way_and_anew() -> None:
    torch.manual_seed(0)
    whole = 0
    for _ in range(20):
        images, targets = Mixing(0.8, 1.0)(CLIPS, TARGETS)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(6, dtype=torch.double))
        kept = (images == CLIPS).all(dim=2)  # a pixel of all colours
        whole += bool(kept[:, 0].any(dim=(1, 2)).all())
        assert torch.equal(kept[:, 0], kept[:, 1])  # in every frame alike
    assert 3 <= whole <= 17
    for plain in (Mixing(0, 0), Mixing(0.8, 0)):
        torch.testing.assert_close(plain(CLIPS[:1], TARGETS[:1])[0], CLIPS[:1])


@pytest.mark.parametrize(("trains", "count"), [("both", 124_323_841), ("vision", 86_192_640), ("text", 38_131_200)])
def test_parameter_count_on_vit_b16(trains: Any, count: int) -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert VifiClip(backbone, trains=trains).num_trainable() == count  # both: 124.3M in arXiv 2404.09490


@pytest.mark.parametrize(("length", "depth", "count"), [(16, 9, 184_320), (10, None, 153_600)])
def test_prompt_count_on_vit_b16(length: int, depth: int | None, count: int) -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    method = VifiClip(backbone, trains="prompts", prompt_length=length, prompt_depth=depth)
    assert method.num_trainable() == count


def test_tuned_weights_can_be_the_backbone_of_a_run_that_learns_prompts(tiny: Callable[[], OpenClip]) -> None:
    assert VifiClip(tiny(), trains="vision").outside_towers() == ()
    assert VifiClip(tiny(), trains="prompts", prompt_depth=2).outside_towers() == ("encode_image", "encode_text")
