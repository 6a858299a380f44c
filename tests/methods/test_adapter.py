"""Adapters follow the official code's forward pass; tests/golden/adapter_official.json says how it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from everclip.backbones.blocks import AdaptedBlock
from everclip.backbones.open_clip import OpenClip
from everclip.methods.adapter import Adapter
from everclip.methods.bitfit import Bitfit
from everclip.methods.convpass import Convpass
from everclip.methods.families import TowerTuning
from everclip.methods.layernorm_tuning import LayernormTuning
from everclip.methods.prefix import Prefix
from everclip.methods.zero_shot import ZeroShot
from everclip.modules import block_parts
from everclip.training.checkpoint import Adapted, restore
from tests.methods.drawn import draw, numbers
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract

IDENTITIES: dict[str, Callable[[OpenClip], TowerTuning]] = {
    "pfeiffer": lambda backbone: Adapter(backbone, reduction=8),
    "houlsby": lambda backbone: Adapter(backbone, reduction=8, placement="houlsby", form="sequential"),
    "convpass": lambda backbone: Convpass(backbone, kernel="xavier"),
    "bitfit": Bitfit,
    "layernorm_tuning": LayernormTuning,
}
FAMILY = IDENTITIES | {"prefix": Prefix}


def official_block() -> tuple[ResidualAttentionBlock, dict[str, Tensor]]:
    """A block of the golden run's size, and its weights by the names of the official code."""
    block = ResidualAttentionBlock(24, 4, act_layer=nn.GELU).double().eval()
    weights = {}
    for kind in ("weight", "bias"):
        for name, part in zip(("query", "key", "value"), getattr(block.attn, f"in_proj_{kind}").chunk(3), strict=True):
            weights[f"attention.attention.{name}.{kind}"] = part
        layers = {
            "attention.output.dense": block.attn.out_proj,
            "intermediate.dense": block.mlp.c_fc,
            "output.dense": block.mlp.c_proj,
            "layernorm_before": block.ln_1,
            "layernorm_after": block.ln_2,
        }
        weights |= {f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items()}
    return block, weights


@pytest.mark.parametrize("form", ["sequential", "parallel"])
@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby"])
def test_blocks_follow_the_official_code(placement: str, form: str, golden: Callable[[str], Any]) -> None:
    plain, weights = official_block()
    block = AdaptedBlock(plain)
    reads: Literal["input", "output"] = "input" if form == "parallel" else "output"
    for layer, name in {"mlp": "FFN", "attention": "MHSA"}.items():
        if layer == "mlp" or placement == "houlsby":
            part = block_parts.Adapter(24, 4, reads).double()
            block.parts[layer] = part
            for place, linear in {"down": part.down, "up": part.up}.items():
                for kind in ("weight", "bias"):
                    weights[f"adapter_module_{name}.linear_{place}sample.{kind}"] = getattr(linear, kind)
    draw(weights)
    with torch.no_grad():
        out = block(numbers(2, 5, 24))[:, ::2, ::3]
    expected = torch.tensor(golden("adapter_official")[f"{placement} {form}"], dtype=torch.double)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)  # twelve digits are kept


@pytest.mark.parametrize(
    ("placement", "count"),
    # Two layers with biases, D to b to D, and the norm before, per block; b is D / 96.
    [
        ("pfeiffer", 12 * sum(2 * d * b + b + d + 2 * d for d, b in ((768, 8), (512, 5)))),
        ("houlsby", 24 * sum(2 * d * b + b + d + 2 * d for d, b in ((768, 8), (512, 5)))),
    ],
)
def test_parameter_count_on_vit_b16(placement: Any, count: int) -> None:
    def number(**options: Any) -> int:
        backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
        return Adapter(backbone, placement=placement, **options).num_trainable()

    assert number() == count
    bottlenecks = 156_768 * (2 if placement == "houlsby" else 1)  # 12 times 13,064 in the card of the source
    assert number(norms=False, towers="vision") == bottlenecks
    assert number(norms=False, towers="vision", layers=[0, -1]) == bottlenecks // 6


def logits(method: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = method.logits(make_batch([0, 3], seed=9).images, EVERY)
    return result


def step(method: TowerTuning, labels: list[int], times: int = 1) -> None:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for number in range(times):
        optimizer.zero_grad()
        method.loss(make_batch(labels, seed=number))["cross_entropy"].backward()
        optimizer.step()


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_family_member_begins_as_the_identity(name: str, tiny: Tiny) -> None:
    method = IDENTITIES[name](tiny())  # type: ignore[arg-type]  # an OpenClip
    method.begin_session(make_session(0), no_extract)
    torch.testing.assert_close(logits(method), logits(ZeroShot(tiny())), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", FAMILY)
def test_a_second_session_goes_on_from_the_first_and_is_restored(name: str, tiny: Tiny) -> None:
    method = FAMILY[name](tiny())  # type: ignore[arg-type]  # an OpenClip
    adapted = Adapted(method)
    method.begin_session(make_session(0), no_extract)
    start = logits(method)
    step(method, [0, 1, 2], times=2)
    trained = logits(method)
    assert float((trained - start).abs().max()) > 0.1
    method.begin_session(make_session(1), no_extract)
    assert torch.equal(logits(method), trained)
    other = FAMILY[name](tiny())  # type: ignore[arg-type]  # an OpenClip
    restore(other, adapted.tensors())
    assert torch.equal(logits(other), trained)


@pytest.mark.parametrize("name", FAMILY)
def test_patches_and_frames_of_clips_are_adapted_too(name: str, tiny: Tiny) -> None:
    method, plain = FAMILY[name](tiny()), ZeroShot(tiny())  # type: ignore[arg-type]  # an OpenClip
    method.begin_session(make_session(0), no_extract)
    step(method, [0, 1, 2], times=2)
    images = make_batch([0, 1]).images
    with torch.no_grad():
        assert float((method.encode_patches(images) - plain.encode_patches(images)).abs().max()) > 1e-3
        clip = torch.stack([images, images], dim=1)
        torch.testing.assert_close(method.encode_image(clip), method.encode_image(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_no_text_token_sees_a_later_one(name: str, tiny: Tiny) -> None:
    method = FAMILY[name](tiny())  # type: ignore[arg-type]  # an OpenClip
    method.begin_session(make_session(0), no_extract)
    with torch.no_grad():
        for weight in method.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        block = method.backbone.get_submodule("model.transformer.resblocks.1")
        x = torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(1))
        changed = x.clone()
        changed[:, 4:] += 1
        mask = torch.full((7, 7), float("-inf")).triu(1)
        before, after = block(x, attn_mask=mask), block(changed, attn_mask=mask)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-5)
    assert float((before[:, 4:] - after[:, 4:]).abs().min(dim=2).values.max()) > 0


def test_the_first_layer_learns_after_the_second_has_moved(tiny: Tiny) -> None:
    method = Adapter(tiny(), reduction=8, towers="vision")
    method.begin_session(make_session(0), no_extract)
    drawn = method.parts[0].down.weight.detach().clone()
    assert 0.9 * 160**-0.5 < float(drawn.abs().max()) <= 160**-0.5
    step(method, [0, 1, 2])
    assert bool(method.parts[0].up.weight.any())
    step(method, [0, 1, 2])
    assert not torch.equal(method.parts[0].down.weight, drawn)


def test_a_layer_that_there_is_not_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"layers=\[4\]: the blocks of the vision tower are 0 to 3"):
        Adapter(tiny(), layers=[0, 4])
