"""Prefixes act as in the official code; tests/golden/prefix_official.json says how it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from everclip.backbones.blocks import mix
from everclip.backbones.open_clip import OpenClip
from everclip.methods.prefix import Prefix
from everclip.modules import block_parts
from tests.methods.drawn import draw, numbers
from tests.methods.test_adapter import official_block
from tests.methods.test_cpe_clip import Tiny, make_session, no_extract


def test_attention_follows_the_official_code(golden: Callable[[str], Any]) -> None:
    block, named = official_block()
    part = block_parts.Prefix(24, 3).double()
    begin = "attention.attention."
    weights = {name.removeprefix(begin): weight for name, weight in named.items() if name.startswith(begin)}
    draw(weights | {"key_tokens": part.tokens[:1], "value_tokens": part.tokens[1:]})
    with torch.no_grad():
        out = mix(block.attn, numbers(2, 5, 24), False, part())[:, ::2, ::3]
    expected = torch.tensor(golden("prefix_official")["attended"], dtype=torch.double)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)  # twelve digits are kept


def test_parameter_count_on_vit_b16() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert Prefix(backbone, length=12).num_trainable() == 12 * 2 * 12 * (768 + 512)


def test_prefixes_begin_in_the_official_range(tiny: Tiny) -> None:
    method = Prefix(tiny(), length=5)
    assert not any(part.tokens.any() for part in method.parts)
    method.begin_session(make_session(0), no_extract)
    for part in method.parts:
        bound = (6 / (3 * 16 * 16 + part.tokens.shape[2])) ** 0.5
        assert 0.97 * bound < float(part.tokens.detach().abs().max()) <= bound
