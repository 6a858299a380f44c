"""Reading is the official layer's; at first it is zero-shot CLIP; every clip is read as if it were alone.

tests/golden/slow_fast_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbones.open_clip import OpenClip
from everclip.methods.slow_fast import SlowFast
from everclip.methods.zero_shot import ZeroShot
from everclip.modules.slow_reading import Crossing
from everclip.types import Batch, ClassSet

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "slow_fast_official.json").read_text())
CLASSES = ClassSet((3, 8, 9), ("dog", "red star", "small blue ring"))


def close(obtained: Tensor, expected: object) -> None:
    np.testing.assert_allclose(obtained.detach(), expected, rtol=0, atol=1e-9)


def test_reading_is_the_official_layers() -> None:
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    crossing, stream = Crossing(SimpleNamespace(attn=attention)).double(), np.random.RandomState(0)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(0.5 * stream.standard_normal(shape))

    linear, gate = crossing.key_value, crossing.gate
    with torch.no_grad():
        for parameter in (linear.weight, linear.bias, gate.weight, gate.bias, crossing.warm_up):
            parameter.copy_(draw(*parameter.shape))
    state, queries, clips, weight = (draw(*shape) for shape in ((2, 6, 16), (2, 6, 16), (2, 5, 16), (2, 6, 16)))
    state.requires_grad_()
    clips.requires_grad_()
    out = state + crossing(state, queries, clips)
    close(out.sum(dim=-1), GOLDEN["out"])
    (out * weight).sum().backward()
    for name, parameter in crossing.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad.sum(dim=1) if parameter.ndim == 2 else parameter.grad, GOLDEN["gradients"][name])
    for given, key in ((state, "state"), (clips, "slow")):
        assert given.grad is not None
        close(given.grad.sum(dim=-1), GOLDEN[key])
    torch.optim.SGD(crossing.parameters(), lr=0.1).step()
    close(((state + crossing(state, queries, clips)) * weight).sum(), GOLDEN["after"])


def clips(count: int) -> Tensor:
    return torch.randn(count, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def opened(backbone: OpenClip) -> SlowFast:
    """The method with its gates open, as training may leave them."""
    torch.manual_seed(0)
    method = SlowFast(backbone, every=2)
    with torch.no_grad():
        for crossing in method.crossings:
            crossing.warm_up += 1
    return method


def test_with_closed_gates_it_is_zero_shot_and_the_gates_alone_learn(tiny: Callable[[], OpenClip]) -> None:
    method, images = SlowFast(tiny(), every=2), clips(2)
    with torch.no_grad():
        expected = ZeroShot(tiny()).logits(images, CLASSES)
    torch.testing.assert_close(method.logits(images, CLASSES), expected, rtol=1e-4, atol=1e-4)
    method.classes = CLASSES
    sum(method.loss(Batch(images, torch.tensor([3, 8]), torch.arange(2))).values(), torch.zeros(())).backward()
    moved = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {"crossings.0.warm_up", "crossings.1.warm_up"}


def test_a_block_joins_what_it_read_before_its_output_projection(tiny: Callable[[], OpenClip]) -> None:
    backbone = tiny()
    method, images = opened(backbone), clips(2)
    tokens = backbone.tokenize(CLASSES.first_prompts())
    block, crossing = backbone.model.transformer.resblocks[0], method.crossings[0]
    with torch.no_grad():
        slow = method.slow_tokens(images)
        x = (backbone.model.token_embedding(tokens) + backbone.model.positional_embedding[: tokens.shape[1]]).repeat(
            2, 1, 1
        )
        q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
        heads = [part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in (q, k, v)]
        state = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        for row in range(len(x)):
            state[row] += crossing(state[row : row + 1], q[row : row + 1], slow[row // 3 : row // 3 + 1])[0]
        x = x + block.attn.out_proj(state)
        expected = x + block.mlp(block.ln_2(x))
        seen: list[Tensor] = []
        second = backbone.model.transformer.resblocks[1]
        with patch.object(
            second.ln_1, "forward", lambda tokens: seen.append(tokens) or F.layer_norm(tokens, tokens.shape[-1:])
        ):
            method.logits(images, CLASSES)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


def test_frames_in_another_order_are_the_same_but_what_is_asked_matters(tiny: Callable[[], OpenClip]) -> None:
    method, images = opened(tiny()), clips(2)
    with torch.no_grad():
        logits = method.logits(images, CLASSES)
        torch.testing.assert_close(method.logits(images.flip(1), CLASSES), logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            method.logits(images[1:], CLASSES.select([2, 0])), logits[1:, [2, 0]], rtol=1e-4, atol=1e-4
        )
        assert (logits - ZeroShot(tiny()).logits(images, CLASSES)).abs().max() > 1e-2


def test_patches_are_averaged_and_kept_of_all_frames(tiny: Callable[[], OpenClip]) -> None:
    method = SlowFast(tiny(), pool=2)
    assert method.slow_tokens(clips(2)).shape == (2, 4 * 2 * 2, 96)
    picture = clips(2)[:, 0]
    torch.testing.assert_close(method.slow_tokens(picture), method.slow_tokens(clips(2))[:, :4])
