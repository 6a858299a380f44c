from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock, QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.utils import parametrize

from everclip.backbones.blocks import (
    AdaptedBlock,
    FusedQuickGELU,
    attend_to_self,
    fuse_activations,
    run_block,
    run_block_naively,
)
from everclip.backbones.insertion import TokenEdit
from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.modules.tower_blocks import adapt_blocks


def make_block(seed: int = 0) -> ResidualAttentionBlock:
    torch.manual_seed(seed)
    block = ResidualAttentionBlock(32, 4, ls_init_value=0.5, act_layer=QuickGELU).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def triangle(length: int) -> Tensor:
    return torch.full((length, length), float("-inf")).triu(1)


RUN = pytest.mark.parametrize("run", [run_block, run_block_naively])


@RUN
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_block_gives_what_open_clips_gives(run: Callable[..., Tensor], causal: bool, fused: bool) -> None:
    block, x = make_block(), random(3, 7, 32)
    expected = block(x, attn_mask=triangle(7) if causal else None)
    if fused:
        fuse_activations(block)
        assert isinstance(block.mlp.gelu, FusedQuickGELU)
    torch.testing.assert_close(run(block, x, causal=causal), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_kept_positions_are_those_of_the_whole(causal: bool) -> None:
    block, x, keep = make_block(), random(3, 7, 32), torch.tensor([[0, 2], [6, 1], [3, 4]])
    expected = run_block(block, x, causal=causal)[torch.arange(3)[:, None], keep]
    kept = run_block(block, x, causal=causal, keep=keep)
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-6)


def test_the_fused_activation_is_quick_gelu_and_so_is_its_gradient() -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.double, requires_grad=True)
    ours, theirs = (torch.autograd.grad(f(x).sum(), x)[0] for f in (FusedQuickGELU(), QuickGELU()))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(FusedQuickGELU()(x), QuickGELU()(x))


def test_the_fused_activation_keeps_half_the_memory() -> None:
    def kept(function: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(value: Tensor) -> Tensor:
            sizes[value.data_ptr()] = value.numel()
            return value

        x = random(64).requires_grad_() * 1
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            function(x)
        return sum(sizes.values())

    assert kept(FusedQuickGELU()) == 64
    assert kept(QuickGELU()) == 128


def test_recomputed_hidden_values_change_no_bit_and_are_not_kept() -> None:
    block, kept, gradients = make_block(), {}, {}
    fuse_activations(block)
    block.requires_grad_(False)
    for recompute in (False, True):
        storages = {}

        def keep(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        x = random(3, 7, 32).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = run_block(block, x, causal=True, recompute=recompute)
        out.square().sum().backward()
        kept[recompute], gradients[recompute] = sum(storages.values()), x.grad
    assert torch.equal(gradients[False], gradients[True])
    assert kept[False] - kept[True] >= 3 * 7 * 4 * 32


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@RUN
def test_a_prefix_is_seen_by_all_tokens(run: Callable[..., Tensor], causal: bool, rows: int) -> None:
    block, x, prefix = make_block(), random(3, 7, 32), (random(rows, 2, 32, seed=2), random(rows, 2, 32, seed=3))
    normed = block.ln_1(x)
    q, k, v = nn.functional.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
    mixed = torch.empty_like(x)
    for row in range(3):
        for token in range(7):
            seen = token + 1 if causal else 7
            keys = torch.cat([prefix[0][row % rows], k[row, :seen]]).view(-1, 4, 8)
            values = torch.cat([prefix[1][row % rows], v[row, :seen]]).view(-1, 4, 8)
            weights = (torch.einsum("khd,hd->kh", keys, q[row, token].view(4, 8)) / 8**0.5).softmax(dim=0)
            mixed[row, token] = torch.einsum("kh,khd->hd", weights, values).flatten()
    middle = x + block.ls_1(block.attn.out_proj(mixed))
    expected = middle + block.ls_2(block.mlp(block.ln_2(middle)))
    torch.testing.assert_close(run(block, x, causal=causal, prefix=prefix), expected, rtol=1e-5, atol=1e-5)


def test_parametrised_projections_act() -> None:
    block, x = make_block(), random(2, 5, 32)

    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    before = run_block(block, x)
    parametrize.register_parametrization(block.attn, "in_proj_weight", Double())
    after = run_block(block, x)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, block(x), rtol=1e-6, atol=1e-6)


class Part(nn.Module):
    """Twice what a layer reads and three times what it puts out, or with tokens moved by one."""

    def __init__(self, moved: bool = False) -> None:
        super().__init__()
        self.moved = moved

    def forward(self, normed: Tensor, output: Tensor) -> Tensor:
        return (2 * normed + 3 * output).roll(int(self.moved), dims=1)


class Given(nn.Module):
    """Gives always the same, whatever it is called with."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, *inputs: Tensor) -> object:
        return self.value


def test_a_block_without_parts_computes_what_it_did_and_keeps_its_names() -> None:
    block, x = make_block(), random(3, 7, 32)
    adapted = AdaptedBlock(block)
    assert adapted.state_dict().keys() == block.state_dict().keys()
    for mask in (None, triangle(7)):
        torch.testing.assert_close(adapted(x, attn_mask=mask), block(x, attn_mask=mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_parts_add_to_the_residual_stream_however_a_block_is_run(causal: bool) -> None:
    block, x, mask = make_block(), random(3, 7, 32), triangle(7)
    adapted = AdaptedBlock(block)
    adapted.parts.update({"attention": Part(moved=True), "mlp": Part(moved=True)})
    normed = block.ln_1(x)
    attended = block.ls_1(block.attention(normed, attn_mask=mask if causal else None))
    middle = x + attended + (2 * normed + 3 * attended).roll(1, dims=1)
    normed = block.ln_2(middle)
    fed = block.ls_2(block.mlp(normed))
    expected = middle + fed + (2 * normed + 3 * fed).roll(1, dims=1)
    keep = torch.tensor([[0, 2], [6, 1], [3, 4]])
    kept = run_block(adapted, x, causal=causal, keep=keep, recompute=True)
    close = {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(adapted(x, attn_mask=mask if causal else None), expected, **close)
    torch.testing.assert_close(run_block_naively(adapted, x, causal=causal), expected, **close)
    torch.testing.assert_close(kept, expected[torch.arange(3)[:, None], keep], **close)


def test_a_part_acts_on_patches_that_see_themselves_alone() -> None:
    block, x = make_block(), random(3, 7, 32)
    plain, adapted = attend_to_self(block, x), AdaptedBlock(block)
    adapted.parts["attention"] = Part()
    torch.testing.assert_close(attend_to_self(adapted, x), 4 * plain + 2 * block.ln_1(x))


def test_own_keys_and_values_stand_in_front_of_those_of_an_edit() -> None:
    block, x = make_block(), random(2, 5, 32)
    own, given = ((random(1, n, 32, seed=n), random(1, n, 32, seed=n + 10)) for n in (2, 3))
    both = (torch.cat([own[0], given[0]], 1), torch.cat([own[1], given[1]], 1))
    adapted = AdaptedBlock(block)
    adapted.parts["front"] = Given(own)
    for edit, whole in ((None, own), (given, both)):
        expected = run_block(block, x, causal=True, prefix=whole)
        assert torch.equal(run_block(adapted, x, causal=True, prefix=edit), expected)


def test_queries_keys_and_values_may_be_added_to() -> None:
    block, x, more = make_block(), random(2, 5, 32), random(96)
    adapted = AdaptedBlock(block)
    adapted.parts["projections"] = Given(more)
    changed = run_block(adapted, x)
    block.attn.in_proj_bias = nn.Parameter(block.attn.in_proj_bias + more)
    torch.testing.assert_close(changed, run_block(block, x), rtol=1e-5, atol=1e-5)


def test_a_mask_of_each_texts_own_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"takes no parts in its blocks; use a causal one.* or method\.towers=vision"):
        AdaptedBlock(make_block())(random(2, 5, 32), attn_mask=torch.zeros(8, 5, 5))


def test_a_block_of_another_structure_is_refused() -> None:
    other = CustomResidualAttentionBlock(32, 4, qk_norm=True)
    with pytest.raises(ConfigError, match="a CustomResidualAttentionBlock with attention Attention gives no access"):
        run_block(other, random(1, 3, 32))
    block = make_block()
    block.attn = nn.Identity()
    with pytest.raises(ConfigError, match="a ResidualAttentionBlock with attention Identity gives no access"):
        run_block(block, random(1, 3, 32))


class Prefixed(TokenEdit):
    """The same random keys and values in front of block 1, far from the usual ones or none at all."""

    def __init__(self, width: int, length: int) -> None:
        self.pair = random(1, length, width), random(1, length, width, seed=2)
        self.asked: list[int] = []

    def prefix(self, layer: int) -> tuple[Tensor, Tensor] | None:
        self.asked.append(layer)
        return self.pair if layer == 1 else None


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_both_towers_ask_for_a_prefix_at_every_block(tiny: Callable[[], OpenClip], tower: str) -> None:
    backbone = tiny()

    def encode(edit: TokenEdit) -> Tensor:
        if tower == "vision":
            return backbone.encode_image(random(2, 3, 32, 32), edit)
        return backbone.encode_text(backbone.tokenize(["a red star.", "ring."]), edit)

    width = 160 if tower == "vision" else 96
    edit, empty = Prefixed(width, 2), Prefixed(width, 0)
    changed, same = encode(edit), encode(empty)
    assert edit.asked == [0, 1, 2, 3]
    torch.testing.assert_close(same, encode(TokenEdit()))
    assert not torch.allclose(changed, same, atol=1e-3)


class Turning(TokenEdit):
    """Adds to the residual stream between attention and MLP what the tokens before have there."""

    halved = True

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def between(self, layer: int, tokens: Tensor) -> Tensor:
        return tokens + self.scale * (layer + 1) * tokens.roll(1, dims=1)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
@torch.no_grad()
def test_an_edit_acts_between_attention_and_mlp(tiny: Callable[[], OpenClip], naive: bool, adapted: bool) -> None:
    backbone, images = tiny(), random(2, 3, 32, 32)
    visual = backbone.model.visual
    unedited = backbone.encode_image(images, normalize=False)
    x = visual._embeds(images)
    for layer, block in enumerate(visual.transformer.resblocks):
        x = x + block.attention(block.ln_1(x))
        x = x + 0.1 * (layer + 1) * x.roll(1, dims=1)
        x = x + block.mlp(block.ln_2(x))
    expected = visual.ln_post(x[:, 0]) @ visual.proj
    if adapted:
        adapt_blocks(backbone, "vision")
    backbone.naive = naive
    close = {"rtol": 1e-4, "atol": 2e-5}
    torch.testing.assert_close(backbone.encode_image(images, Turning(0.1), normalize=False), expected, **close)
    torch.testing.assert_close(backbone.encode_image(images, Turning(0), normalize=False), unedited, **close)
    texts, edit = backbone.tokenize(["a red star.", "ring."]), Turning(0)
    torch.testing.assert_close(backbone.encode_text(texts, edit), backbone.encode_text(texts), **close)


class Attending(TokenEdit):
    """Adds to the logits of attending to a token a part of the sum of its key's first values."""

    halved = True

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def weigh(self, keys: Tensor) -> Tensor:
        return self.scale * keys[:, :, :8].sum(dim=2)


@RUN
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_an_edit_weighs_what_is_attended_to(causal: bool, adapted: bool, run: Callable[..., Tensor]) -> None:
    block, x, edit = make_block(), random(2, 5, 32), Attending(0.5)
    width, heads, prefix = 32, block.attn.num_heads, (random(1, 3, 32, seed=1), random(1, 3, 32, seed=2))
    projected = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    q, k, v = projected.split(width, dim=-1)
    added = torch.cat([torch.zeros(2, 3), edit.weigh(k)], dim=1)
    k, v = (torch.cat([given.expand(2, -1, -1), own], dim=1) for given, own in zip(prefix, (k, v), strict=True))
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    logits = q @ k.mT / (width // heads) ** 0.5 + added[:, None, None]
    if causal:
        logits = logits.masked_fill(~torch.ones(5, 8, dtype=torch.bool).tril(3), -torch.inf)
    expected = x + block.ls_1(block.attn.out_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)))
    given = AdaptedBlock(block) if adapted else block
    found = run(given, x, causal=causal, prefix=prefix, half="attention", weigh=edit.weigh)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    plain = run(given, x, causal=causal, half="attention")
    weighed = run(given, x, causal=causal, half="attention", weigh=Attending(0).weigh)
    torch.testing.assert_close(weighed, plain, rtol=1e-5, atol=1e-5)


class Joining(TokenEdit):
    """Joins every two rows before the second block, so that both class tokens are read out."""

    readout = slice(0, 2)
    pooled = False

    def before(self, layer: int, tokens: Tensor) -> Tensor:
        if layer != 1:
            return tokens
        pairs = tokens.unflatten(0, (-1, 2))
        return torch.cat([pairs[:, :, 0], pairs[:, :, 1:].flatten(1, 2)], dim=1)


@torch.no_grad()
def test_an_edit_joins_rows_and_reads_each_token(tiny: Callable[[], OpenClip]) -> None:
    backbone, images = tiny(), random(4, 3, 32, 32)
    visual = backbone.model.visual
    x = Joining().before(1, visual.transformer.resblocks[0](visual._embeds(images)))
    for block in visual.transformer.resblocks[1:]:
        x = block(x)
    expected = visual.ln_post(x[:, :2]) @ visual.proj
    for naive in (False, True):
        backbone.naive = naive
        features = backbone.encode_image(images, Joining(), normalize=False)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=2e-5)
