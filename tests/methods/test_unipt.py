"""UniPT follows the official code's own numbers; nothing of the backbone is kept for the backward pass.

tests/golden/unipt_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from everclip.backbones.open_clip import OpenClip
from everclip.methods.unipt import SideNetwork, Unipt
from everclip.objectives.contrastive import contrastive
from tests.methods.given import GivenFeatures

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "unipt_official.json").read_text())
# Names of weights in the official code, in its order, and here.
NAMES = {
    "downsample_layer.1.bias": "ask.bias",
    "downsample_layer.1.weight": "ask.weight",
    **{f"downsample_layers.{i}.1.{kind}": f"down.{i}.{kind}" for i in range(3) for kind in ("bias", "weight")},
    "gate_layer.bias": "gate.bias",
    "gate_layer.weight": "gate.weight",
    "upsample_layer.1.bias": "up.bias",
    "upsample_layer.1.weight": "up.weight",
}
TEXTS = ["a red circle", "two blue squares on a grey ground"]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def method(tiny: Callable[[], OpenClip]) -> Unipt:
    torch.manual_seed(0)
    return Unipt(tiny())


def test_features_loss_and_gradients_follow_the_official_code() -> None:
    stream = np.random.RandomState(0)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(stream.standard_normal(shape))

    sides = {name: SideNetwork(width, 3, 8, 4).double() for name, width in (("image", 6), ("text", 5))}
    for side in sides.values():
        for name in NAMES.values():
            parameter = side.get_parameter(name)
            parameter.data = 0.5 * draw(*parameter.shape)
    layers, ends = [draw(4, 7, 6) for _ in range(3)], torch.tensor([2, 4, 1, 5])
    pictures = sides["image"](draw(4, 8), layers, torch.ones(4, 7), torch.zeros(4, dtype=torch.long))
    layers = [draw(4, 6, 5) for _ in range(3)]
    texts = sides["text"](draw(4, 8), layers, torch.arange(6) <= ends[:, None], ends)
    np.testing.assert_allclose(pictures.detach(), GOLDEN["pictures"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(texts.detach(), GOLDEN["texts"], rtol=0, atol=1e-10)
    loss = contrastive(F.normalize(pictures, dim=-1), F.normalize(texts, dim=-1), scale=torch.tensor(10.0))
    loss.backward()
    assert loss.item() == pytest.approx(GOLDEN["loss"], abs=1e-10)
    for side, expected in GOLDEN["gradients"].items():
        for official, name in NAMES.items():
            found = sides[side].get_parameter(name).grad
            assert found is not None
            np.testing.assert_allclose(found.flatten()[:6], expected[official], rtol=0, atol=1e-9, err_msg=name)


def test_side_networks_are_as_large_as_published() -> None:
    backbone = OpenClip(model="ViT-B-32-quickgelu", weights="random", tag="openai", load=False)
    with torch.device("meta"):
        assert Unipt(backbone).num_trainable() == 5_644_289 + 3_940_353 == 9_584_642


def test_side_networks_that_add_nothing_leave_the_backbone_as_it_is(tiny: Callable[[], OpenClip]) -> None:
    method, images = Unipt(tiny(), zero_init=True), noise(3, 3, 32, 32)
    for part in method.parts:
        part.reset()
    backbone = method.backbone
    torch.testing.assert_close(method.encode_image(images), backbone.encode_image(images), rtol=0, atol=2e-6)
    tokens = backbone.tokenize(TEXTS)
    torch.testing.assert_close(method.encode_text(TEXTS), backbone.encode_text(tokens), rtol=0, atol=2e-6)


def test_nothing_of_the_backbone_is_kept_for_the_backward_pass(method: Unipt) -> None:
    weights = {p.untyped_storage().data_ptr() for p in method.backbone.parameters()}
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        features = method.encode_image(noise(2, 3, 32, 32)), method.encode_text(TEXTS)
    assert not weights & {tensor.untyped_storage().data_ptr() for tensor in saved}
    sizes = {tower.width for tower in (method.backbone.vision, method.backbone.text) if tower}
    inside = {factor * size for size in sizes for factor in (3, 4)}  # of queries, keys and values, and of the MLP
    assert not inside & {length for tensor in saved for length in tensor.shape}
    (features[0] @ features[1].T).sum().backward()
    assert all(p.grad is None for p in method.backbone.parameters())


def test_a_text_does_not_depend_on_longer_ones_beside_it(method: Unipt) -> None:
    with torch.no_grad():
        torch.testing.assert_close(method.encode_text(TEXTS)[:1], method.encode_text(TEXTS[:1]), rtol=0, atol=2e-6)


def test_the_order_of_tokens_is_no_matter() -> None:
    side, layers = SideNetwork(6, 2, 8, 4), [noise(2, 5, 6), noise(2, 5, 6) + 1]
    feature, seen, first = noise(2, 8), torch.ones(2, 5), torch.zeros(2, dtype=torch.long)
    moved = [tokens[:, [0, 3, 1, 4, 2]] for tokens in layers]
    torch.testing.assert_close(side(feature, moved, seen, first), side(feature, layers, seen, first))


def test_a_clip_that_does_not_move_is_its_picture(method: Unipt) -> None:
    images = noise(2, 3, 32, 32)
    with torch.no_grad():
        clips = method.encode_image(images[:, None].expand(-1, 3, -1, -1, -1))
        torch.testing.assert_close(clips, method.encode_image(images), rtol=0, atol=2e-6)


def test_a_backbone_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="side networks need two towers of open_clip's own blocks"):
        Unipt(GivenFeatures(torch.zeros(2, 4)))
