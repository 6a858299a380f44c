"""Convpass follows the official code's forward pass; tests/golden/convpass_official.json says how it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everclip.backbones.open_clip import OpenClip
from everclip.methods.convpass import Convpass
from everclip.modules import block_parts
from tests.methods.drawn import draw, numbers
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def make(causal: bool = False, scale: float = 1.0, dropout: float = 0.0, width: int = 768) -> block_parts.Convpass:
    return block_parts.Convpass(width, 8, causal=causal, scale=scale, dropout=dropout, kernel="identity").double()


def test_the_bypass_follows_the_official_code(golden: Callable[[str], Any]) -> None:
    part, x = make(), numbers(1, 197, 768)
    draw({f"adapter_{name}": weight for name, weight in part.named_parameters()})
    with torch.no_grad():
        out = part(x, x)[0, [0, 1, 15, 100, 196], ::96]
    expected = torch.tensor(golden("convpass_official")["added"], dtype=torch.double)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-10)  # twelve digits are kept


@pytest.mark.parametrize(("towers", "width"), [("vision", 768), ("text", 512)])
def test_parameter_count_on_vit_b16(towers: Any, width: int) -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    kernel = 9 if towers == "vision" else 3
    count = 24 * (2 * 8 * width + 8 + width + 8 * 8 * kernel + 8)
    assert Convpass(backbone, towers=towers).num_trainable() == count
    if towers == "vision":
        assert count == 327_552  # 0.33M in the paper
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert Convpass(backbone, towers=towers, beside=["attention"]).num_trainable() == count // 2


@pytest.mark.parametrize("causal", [False, True])
def test_the_identity_kernel_mixes_no_tokens(causal: bool) -> None:
    part, x = make(causal, scale=0.5, width=24), numbers(2, 10, 24)
    part.reset()
    nn.init.normal_(part.up.weight, generator=torch.Generator().manual_seed(0))

    def quick_gelu(value: Tensor) -> Tensor:
        return value * torch.sigmoid(1.702 * value)

    with torch.no_grad():
        expected = 0.5 * quick_gelu(quick_gelu(x @ part.down.weight.T)) @ part.up.weight.T
        torch.testing.assert_close(part(x, x), expected)


def test_dropout_acts_in_training_alone(tiny: Tiny) -> None:
    method = Convpass(tiny(), dropout=0.5)
    assert method.couples_batch
    assert not Convpass(tiny()).couples_batch
    method.begin_session(make_session(0), no_extract)
    for part in method.parts:
        nn.init.normal_(part.up.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    images = make_batch([0, 1]).images
    with torch.no_grad():
        first, second = (method.train().logits(images, EVERY) for _ in range(2))
        assert not torch.allclose(first, second)
        first, second = (method.eval().logits(images, EVERY) for _ in range(2))
        assert torch.equal(first, second)
