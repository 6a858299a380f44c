"""TempMe follows the official code's own numbers.

tests/golden/tempme_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from everclip.backbones.base import Tower
from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.methods.tempme import Tempme
from everclip.modules.token_merging import TokenMerger, match
from everclip.objectives.contrastive import Contrastive
from everclip.types import NO_CLASSES, Batch
from tests.methods.official_clip import summary, values, weights
from tests.methods.test_cpe_clip import Tiny, make_session, no_extract

CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 28, "layers": 4, "width": 128, "head_width": 64, "patch_size": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
TEXTS = ("a red square moves left", "two blue circles on a grey ground grow")
SETTINGS: dict[str, Any] = {
    "three": {"layers": [1, 2, 3], "factors": [2, 2, 3]},
    "two": {"layers": [1, -1], "factors": [3, 2]},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], OpenClip]:
    path = tmp_path_factory.mktemp("tempme") / "everclip-tempme.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    state: dict[str, Tensor] = {}

    def make() -> OpenClip:
        backbone = OpenClip(model=path.stem, weights="random").double()
        state.update(state or weights(backbone.model.state_dict()))
        backbone.model.load_state_dict(state)
        return backbone

    return make


def official(method: Tempme) -> dict[str, Tensor]:
    """What is trained, by the names of the official code, sorted."""
    found: dict[str, Tensor] = {}
    names = [f"clip.visual.transformer.resblocks.{i}" for i in range(4)]
    names += [f"clip.transformer.resblocks.{i}" for i in range(2)]
    for name, update in zip(names, method.parts, strict=False):
        found[f"{name}.attn.TVPt_LoRA_a"], found[f"{name}.attn.TVPt_LoRA_b"] = update.down, update.up
    for layer, position in zip(method.merger.layers, method.merger.positions, strict=True):
        found[f"{names[layer]}.TVPt_Video_Positional_embedding"] = position
    return dict(sorted(found.items()))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_follows_the_official_code(
    setting: str, small: Callable[[], OpenClip], golden: Callable[[str], Any]
) -> None:
    expected = golden("tempme_official")[setting]
    method = Tempme(small(), **SETTINGS[setting])
    trained = official(method)
    for number, value in enumerate(trained.values()):
        value.data = values(100 + number, *value.shape, scale=0.1)
    assert method.num_trainable() == expected["count"]
    clips, schedule = values(1, 2, 12, 3, 28, 28), []
    edit = method.merger.edit

    def watched(frames: int) -> Any:
        made = edit(frames)
        between = made.between

        def note(layer: int, tokens: Tensor) -> Tensor:
            tokens = between(layer, tokens)
            schedule.append([made.pieces, made.fixed, tokens.shape[1]])
            assert made.size is not None
            assert made.size.sum(dim=1).unique().tolist() == [12 // made.pieces * 50]
            return tokens

        made.between = note  # type: ignore[method-assign]  # looks on
        return made

    method.merger.edit = watched  # type: ignore[method-assign]  # looks on
    batch = Batch(clips, torch.zeros(2), torch.arange(2), texts=TEXTS)

    def loss() -> Tensor:
        return Contrastive().loss(method, batch, NO_CLASSES, 0.0)["contrastive"]

    with torch.no_grad():
        np.testing.assert_allclose(method.encode_image(clips), expected["video"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(method.encode_text(TEXTS), expected["text"], rtol=0, atol=1e-9)
    assert schedule == expected["schedule"]
    before = loss()
    before.backward()
    assert before.item() == pytest.approx(expected["loss"], abs=1e-9)
    for name, value in trained.items():
        assert value.grad is not None
        assert summary(value.grad) == pytest.approx(expected["gradients"][name], rel=1e-7, abs=1e-9), name
    parameters = list(trained.values())
    # The code's AdamW adds eps before it corrects the second moment, and shrinks weights after the step.
    optimizer = torch.optim.AdamW(parameters, lr=6e-4, weight_decay=0, eps=1e-6 / (1 - 0.999) ** 0.5)
    assert float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)) == pytest.approx(expected["gradient_norm"])
    optimizer.step()
    for name, value in trained.items():
        value.data *= 1 - 6e-4 * 0.2
        assert summary(value) == pytest.approx(expected["updated"][name], rel=1e-8, abs=1e-9), name
    with torch.no_grad():
        assert loss().item() == pytest.approx(expected["after"], abs=1e-9)


@pytest.mark.parametrize("model", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
def test_as_many_values_are_trained_as_published(model: str) -> None:
    backbone = OpenClip(model=model, weights="random", load=False)
    assert Tempme(backbone).num_trainable() == 507_648  # 0.50M in the paper


def test_tokens_of_the_published_settings() -> None:
    tower = Tower(8, 12, 2)
    merger = TokenMerger(
        tower, frames=12, layers=[-4, -3, -2], factors=[2, 2, 3], tokens=2, clip_share=0.3, image_share=0.1
    )
    edit, tokens, found = merger.edit(12), values(0, 12, 50, 8), []
    for layer in range(12):
        tokens = edit.before(layer, tokens)
        edit.weigh(tokens)
        tokens = edit.between(layer, tokens)
        found.append((edit.pieces, edit.fixed, tokens.shape[1]))
    frames = [(12, 1, length) for length in range(48, 33, -2)]
    assert found == [*frames, (6, 2, 44), (3, 4, 56), (1, 12, 107), (1, 12, 97)]


def make(tiny: Tiny, **settings: Any) -> Tempme:
    method = Tempme(tiny(), **{"frames": 4, "factors": [2, 2], "layers": [1, -1], **settings})
    method.begin_session(make_session(0), no_extract)
    return method


def clips(count: int = 2, frames: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, frames, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_without_merging_a_clip_is_the_mean_of_its_frames(tiny: Tiny) -> None:
    method = make(tiny, layers=[], factors=[], tokens=0)
    frames = method.backbone.encode_image(clips().flatten(0, 1)).unflatten(0, (2, 4))
    expected = torch.nn.functional.normalize(frames.mean(dim=1), dim=-1)
    torch.testing.assert_close(method.encode_image(clips()), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_merged_token_is_attended_to_as_often_as_its_parts_were() -> None:
    merger = TokenMerger(Tower(8, 2, 2), frames=1, layers=[], factors=[], tokens=3, clip_share=0, image_share=0)
    edit, first, others = merger.edit(1), values(0, 2, 1, 8), values(1, 2, 3, 8)
    twice = torch.cat([first, others.repeat_interleave(2, dim=1)], dim=1)
    assert edit.weigh(twice) is None
    merged = edit.between(0, twice)
    torch.testing.assert_close(merged, torch.cat([first, others], dim=1))
    bias = edit.weigh(merged)
    assert bias is not None
    torch.testing.assert_close(((first @ merged.mT + bias[:, None]).softmax(-1) @ merged), attend(first, twice))


def attend(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries @ keys.mT).softmax(-1) @ keys


def test_most_alike_tokens_are_merged_weighted_by_their_sizes() -> None:
    # Behind one class token the second and fourth token are sources; the second is most like the third.
    tokens = torch.tensor([[[5.0, 5.0], [1.0, 0.0], [0.0, 2.0], [0.1, 1.0], [-1.0, -1.0]]])
    sizes = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0])[None, :, None]
    matching = match(tokens, 1, 1)
    assert (matching.merged.item(), matching.into.item(), matching.staying.item()) == (0, 1, 1)
    assert matching.add(sizes).flatten().tolist() == [1, 1, 1, 4]
    merged = matching.add(tokens * sizes) / matching.add(sizes)
    torch.testing.assert_close(merged, torch.tensor([[[5.0, 5.0], [-1.0, -1.0], [1.0, 0.0], [0.025, 1.75]]]))


@torch.no_grad()
def test_the_order_of_frames_matters_and_a_picture_is_a_clip_of_one(tiny: Tiny) -> None:
    method = make(tiny)
    for position in method.merger.positions:
        torch.nn.init.normal_(position, generator=torch.Generator().manual_seed(0))
    features = method.encode_image(clips())
    assert float((method.encode_image(clips().flip(1)) - features).abs().max()) > 1e-2
    torch.testing.assert_close(method.encode_image(clips().flip(0)), features.flip(0), rtol=1e-4, atol=1e-5)
    picture = clips()[:, 0]
    assert torch.equal(method.encode_image(picture), method.encode_image(picture[:, None]))


def test_clips_pass_in_pieces(tiny: Tiny) -> None:
    method, found = make(tiny), []
    batch = Batch(clips(4), torch.zeros(4), torch.arange(4), texts=("red star", "ring", "a blue ring", "a red ring"))
    for pieces in (1, 3):
        method.backbone.pieces = pieces
        method.zero_grad()
        Contrastive().loss(method, batch, NO_CLASSES, 0.0)["contrastive"].backward()
        found.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
    assert len(found[0]) == 2 * 8 + 2
    for whole, divided in zip(*found, strict=True):
        torch.testing.assert_close(divided, whole, rtol=1e-3, atol=1e-4)


def test_settings_and_clips_that_do_not_fit_are_refused(tiny: Tiny) -> None:
    with pytest.raises(
        ValueError, match=r"factors=\[2\]: one factor for each layer, and their product 2 divides frames=3"
    ):
        make(tiny, frames=3, layers=[1], factors=[2])
    with pytest.raises(ValueError, match=r"layers=\[1, -3\] must ascend, among the 4 blocks of the image tower"):
        make(tiny, layers=[1, -3])
    with pytest.raises(ConfigError, match=r"clips of 3 frames, but method\.frames=4: set method\.frames=3 with"):
        make(tiny).encode_image(clips(frames=3))
