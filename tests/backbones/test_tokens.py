"""All tokens, patches in the joint space, clips, and features before the projection of every pooling."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.insertion import TokenEdit
from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.modules.prompts import DeepPrompts, PromptMode


@pytest.fixture(scope="module")
def backbone() -> OpenClip:
    return OpenClip(model="everclip-tiny", weights="embedded")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("naive", [False, True])
@torch.no_grad()
def test_hidden_gives_what_open_clips_blocks_put_out(tiny: Callable[[], OpenClip], naive: bool) -> None:
    backbone = tiny()
    backbone.naive = naive
    images, outputs = noise(2, 3, 32, 32), []
    for block in backbone.model.visual.transformer.resblocks:
        block.register_forward_hook(lambda module, given, output: outputs.append(output))
    backbone.model.visual(images)
    expected = list(outputs)
    for layers, wanted in (([0, 1, 2, 3], [0, 1, 2, 3]), ([3, 0], [3, 0]), ([-1, -4, 1], [3, 0, 1])):
        found = backbone.hidden(images, layers)
        assert [tuple(tokens.shape) for tokens in found] == [(2, 17, 160)] * len(layers)
        for tokens, layer in zip(found, wanted, strict=True):
            torch.testing.assert_close(tokens, expected[layer], rtol=0, atol=2e-5)


@pytest.mark.parametrize("naive", [False, True])
@torch.no_grad()
def test_hidden_text_gives_what_open_clips_blocks_put_out(tiny: Callable[[], OpenClip], naive: bool) -> None:
    backbone, outputs = tiny(), []
    backbone.naive = naive
    model, count = backbone.model, backbone.text.layers if backbone.text else 0
    for block in model.transformer.resblocks:
        block.register_forward_hook(lambda module, given, output: outputs.append(output))
    texts = ["a red circle", "two blue squares on a grey ground"]
    features, expected = model.encode_text(backbone.tokenizer(texts)), list(outputs)
    tokens = backbone.tokenize(texts)
    found = backbone.hidden_text(tokens, [-1, *range(count)])
    for stream, wanted in zip(found, [expected[-1], *expected], strict=True):
        torch.testing.assert_close(stream, wanted[:, : tokens.shape[1]], rtol=0, atol=2e-5)
    ends = found[0][torch.arange(2), tokens.argmax(dim=-1)]
    torch.testing.assert_close(model.ln_final(ends) @ model.text_projection, features, rtol=0, atol=2e-5)
    words = backbone.encode_words(tokens, normalize=False)
    torch.testing.assert_close(words, model.ln_final(found[0]) @ model.text_projection, rtol=0, atol=2e-5)
    torch.testing.assert_close(backbone.encode_words(tokens), F.normalize(words, dim=-1))


@pytest.mark.parametrize("layers", [[4], [0, -5], []])
def test_blocks_that_do_not_exist_are_refused(backbone: OpenClip, layers: list[int]) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"layers={layers}: the blocks") + ".*everclip-tiny are 0 to 3"):
        backbone.hidden(noise(1, 3, 32, 32), layers)
    count = backbone.text.layers if backbone.text else 0
    with pytest.raises(ConfigError, match=f"the text tower of everclip-tiny are 0 to {count - 1}"):
        backbone.hidden_text(backbone.tokenize(["a circle"]), [count])


@torch.no_grad()
def test_patches_go_the_way_of_the_class_token(backbone: OpenClip) -> None:
    images, visual = noise(2, 3, 32, 32), backbone.model.visual
    patches = backbone.encode_patches(images, normalize=False)
    assert patches.shape == (2, 4, 4, 96)
    tokens = visual.ln_post(backbone.hidden(images, [-1])[0]) @ visual.proj
    torch.testing.assert_close(tokens[:, 0], backbone.encode_image(images, normalize=False), rtol=0, atol=2e-5)
    torch.testing.assert_close(patches[:, 1, 2], tokens[:, 1 + 4 * 1 + 2])  # row by row
    torch.testing.assert_close(backbone.encode_patches(images), F.normalize(patches, dim=-1))


@torch.no_grad()
def test_patches_by_values_see_themselves_alone(backbone: OpenClip) -> None:
    images, visual = noise(2, 3, 32, 32), backbone.model.visual
    block = visual.transformer.resblocks[-1]
    normed = block.ln_1(backbone.hidden(images, [-2])[0])
    attended = block.attn(normed, normed, normed, attn_mask=~torch.eye(17, dtype=torch.bool), need_weights=False)[0]
    expected = (visual.ln_post(attended) @ visual.proj)[:, 1:].unflatten(1, (4, 4))
    found = backbone.encode_patches(images, values=True, normalize=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_clip_is_the_mean_of_its_frames_before_the_length_becomes_one(backbone: OpenClip) -> None:
    clips = noise(3, 5, 3, 32, 32)
    expected = []
    for clip in clips:  # as in ViFi-CLIP, arXiv 2212.03640: pool, then normalise
        frames = [backbone.encode_image(frame[None], normalize=False)[0] for frame in clip]
        expected.append(F.normalize(sum(frames) / 5, dim=-1))  # type: ignore[arg-type]  # tensors add up to a tensor
    torch.testing.assert_close(backbone.encode_image(clips), torch.stack(expected), rtol=0, atol=2e-6)
    torch.testing.assert_close(backbone.encode_image(clips.flip(1)), torch.stack(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shared", [True, False], ids=["for_all", "for_each_row"])
@torch.no_grad()
def test_an_edit_acts_on_every_frame_of_a_clip(backbone: OpenClip, shared: bool) -> None:
    clips = noise(2, 3, 3, 32, 32)
    prompts = noise(2, 4, 160) if shared else noise(2, 2, 4, 160)

    def edit() -> TokenEdit:
        return DeepPrompts(prompts, "accumulate", "start")

    frames = [backbone.encode_image(frame, edit(), normalize=False) for frame in clips.unbind(1)]
    assert torch.equal(backbone.encode_image(clips, edit(), normalize=False), torch.stack(frames).mean(dim=0))


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("edit", [None, TokenEdit()], ids=["plain", "edited"])
@torch.no_grad()
def test_a_clip_that_does_not_move_is_its_picture(backbone: OpenClip, edit: TokenEdit | None, project: bool) -> None:
    raw = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    clips = backbone.normalize(raw[:, None].expand(-1, 4, -1, -1, -1))
    picture, still = (backbone.encode_image(x, edit, project=project) for x in (backbone.normalize(raw), clips))
    torch.testing.assert_close(still, picture, rtol=0, atol=2e-6)
    assert backbone.encode_image(clips[:0], edit).shape == (0, 96)


@pytest.mark.parametrize(
    ("change", "width"),
    [
        pytest.param({"pool_type": "avg", "final_ln_after_pool": True}, 160, id="mean_patch"),
        pytest.param({"attentional_pool": True, "attn_pooler_queries": 4}, 96, id="attention_pooling"),
    ],
)
@torch.no_grad()
def test_features_before_the_projection_of_other_poolings(
    tiny: Callable[[], OpenClip], change: dict[str, object], width: int
) -> None:
    from open_clip.transformer import VisionTransformer

    backbone = tiny()
    size = {"image_size": 32, "patch_size": 8, "width": 160, "layers": 4, "heads": 5, "mlp_ratio": 4.0}
    visual = VisionTransformer(**size, output_dim=96, **change).eval()
    backbone.model.visual = visual
    images = noise(2, 3, 32, 32)
    features = backbone.encode_image(images, normalize=False, project=False)
    assert features.shape == (2, width)
    torch.testing.assert_close(features @ visual.proj, visual(images), rtol=0, atol=2e-5)
    with pytest.raises(ConfigError, match="gives no access to its image tokens"):
        backbone.encode_image(images, TokenEdit())


def test_a_backbone_without_tokens_names_one_that_has_them() -> None:
    backbone = OpenClip(model="MobileCLIP2-S0", weights="random", load=False)
    images = torch.zeros(1, 3, 256, 256)
    for ask in (lambda: backbone.hidden(images, [0]), lambda: backbone.encode_patches(images)):
        with pytest.raises(ConfigError, match=r"MobileCLIP2-S0 gives no access.*backbone=vit_b16_openai"):
            ask()


def test_texts_of_a_tower_that_is_not_causal_have_no_tokens(tiny: Callable[[], OpenClip]) -> None:
    backbone = tiny()
    backbone.model.attn_mask = None
    with pytest.raises(ConfigError, match=r"everclip-tiny has no causal text tower.*backbone=vit_b16_openai"):
        backbone.hidden_text(backbone.tokenize(["a circle"]), [0])


@pytest.mark.parametrize("mode", ["replace", "accumulate", "accumulate_same"])
@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (3, 2, 4)], ids=["input", "deep", "groups"])
def test_what_texts_have_in_front_is_computed_once(
    tiny: Callable[[], OpenClip], shape: tuple[int, ...], mode: PromptMode
) -> None:
    backbone, seen, found = tiny(), list[int](), []
    block = backbone.model.transformer.resblocks[0]
    block.mlp.register_forward_hook(lambda module, given, output: seen.append(output.shape[:-1].numel()))
    tokens = backbone.tokenize([f"a {'very ' * (i % 3)}good class {i}." for i in range(6)])
    prompts = noise(*shape, 96).requires_grad_()
    for naive in (False, True):
        backbone.naive = naive
        features = backbone.encode_text(tokens, DeepPrompts(prompts, mode, "start"))
        (gradient,) = torch.autograd.grad((features * noise(*features.shape)).sum(), prompts)
        found.append((features.detach(), gradient))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    groups, behind = shape[1] if len(shape) == 3 else 1, tokens.shape[1] - 1
    assert seen == [groups * (1 + 4) + 6 * behind]  # the naive form calls no module


@pytest.mark.parametrize("edited", [False, True], ids=["plain", "edited"])
def test_pieces_give_the_same_and_keep_nothing_but_features(tiny: Callable[[], OpenClip], edited: bool) -> None:
    backbone, kept, found = tiny(), dict[int, int](), dict[int, list[Tensor]]()
    images, tokens = noise(7, 3, 32, 32), backbone.tokenize([f"class {i}." for i in range(7)])
    lengths = {"vision": 160, "text": 96}
    prompts = {tower: noise(2, 3, width).requires_grad_() for tower, width in lengths.items()}
    weights = [tower.transformer.resblocks[0].attn.in_proj_weight for tower in (backbone.model.visual, backbone.model)]
    trained = list(prompts.values()) if edited else [weight.requires_grad_() for weight in weights]

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for pieces in (1, 3):
        backbone.pieces, sizes = pieces, dict[int, int]()
        edits = [DeepPrompts(prompts[t], "accumulate", "start") if edited else None for t in lengths]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            pictures, texts = backbone.encode_image(images, edits[0]), backbone.encode_text(tokens, edits[1])
            loss = (pictures @ texts.T).exp().sum()
        kept[pieces] = sum(sizes.values())
        found[pieces] = [pictures, texts, *torch.autograd.grad(loss, trained)]
    torch.testing.assert_close(found[3], found[1], rtol=1e-4, atol=1e-5)
    assert kept[3] < kept[1] / 10


class Watching(TokenEdit):
    watched = True

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def before(self, layer: int, tokens: Tensor) -> Tensor:
        self.seen.append(tokens)
        return tokens

    def after(self, tokens: Tensor) -> None:
        self.seen.append(tokens)


@pytest.mark.parametrize("naive", [False, True])
@torch.no_grad()
def test_who_watches_a_pass_sees_all_tokens_of_it(tiny: Callable[[], OpenClip], naive: bool) -> None:
    backbone, tokens = tiny(), tiny().tokenize(["a red circle", "two blue squares on a grey ground"])
    backbone.naive, images = naive, noise(2, 3, 32, 32)
    for encode, hidden, given in (
        (backbone.encode_image, backbone.hidden, images),
        (backbone.encode_text, backbone.hidden_text, tokens),
    ):
        edit = Watching()
        torch.testing.assert_close(encode(given, edit), encode(given), rtol=0, atol=2e-5)
        assert len(edit.seen) == 5
        for seen, expected in zip(edit.seen[1:], hidden(given, [0, 1, 2, 3]), strict=True):
            torch.testing.assert_close(seen, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 9])
def test_every_process_makes_as_many_passes_whatever_its_share(tiny: Callable[[], OpenClip], rows: int) -> None:
    backbone, passes = tiny(), list[int]()
    backbone.pieces = 4
    weight = backbone.model.visual.conv1.weight.requires_grad_()
    backbone.model.visual.ln_pre.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    features = backbone.encode_image(noise(rows, 3, 32, 32))
    assert features.shape == (rows, 96)
    assert len(passes) == 4
    torch.autograd.grad(features.sum(), weight)
    assert len(passes) == 8
