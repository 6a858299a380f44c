from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.methods.coda_prompt import CodaPrompt
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract

BEFORE = ("keys", "attention", "prompts")


def make(tiny: Tiny, **options: object) -> CodaPrompt:
    torch.manual_seed(0)
    defaults = {"num_sessions": 3, "pool": 9, "length": 4, "layers": [0, 2]}
    return CodaPrompt(tiny(), **(defaults | options))  # type: ignore[arg-type]  # keywords of one test


def step(method: CodaPrompt, labels: list[int], weight_decay: float = 0.1) -> None:
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=weight_decay)
    torch.stack(list(method.loss(make_batch(labels)).values())).sum().backward()
    optimizer.step()


def pools(method: CodaPrompt) -> dict[str, list[Tensor]]:
    return {name: [part.detach().clone() for part in getattr(method, name).parts] for name in BEFORE}


def test_parameter_count_on_vit_b16_is_the_published_one() -> None:
    method = CodaPrompt(OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False), num_sessions=10)
    assert method.num_trainable() == 3_840_000
    method.keys.open(0)
    method.attention.open(0)
    method.prompts.open(0)
    assert method.num_trainable() == 384_000  # of one session


@pytest.mark.parametrize("ortho_weight", [0.0, 0.1])
def test_a_session_moves_its_own_components_alone(tiny: Tiny, ortho_weight: float) -> None:
    method = make(tiny, ortho_weight=ortho_weight)
    method.begin_session(make_session(0), no_extract)
    step(method, [0, 1, 2])
    method.begin_session(make_session(1), no_extract)
    before = pools(method)
    step(method, [3, 4])
    after = pools(method)
    for name in BEFORE:
        assert torch.equal(after[name][0], before[name][0])
        assert not torch.equal(after[name][1], before[name][1])
        assert not after[name][2].any()


def test_components_begin_orthonormal_in_every_block(tiny: Tiny) -> None:
    method = make(tiny)
    for index in (0, 1):
        method.begin_session(make_session(index), no_extract)
    for components in method.components():
        rows = components.detach().flatten(2)
        torch.testing.assert_close(rows @ rows.transpose(1, 2), torch.eye(6).expand(2, -1, -1), rtol=0, atol=1e-5)


def test_the_order_of_components_means_nothing(tiny: Tiny) -> None:
    method, images = make(tiny), make_batch([0, 1]).images
    method.begin_session(make_session(0), no_extract)
    with torch.no_grad():
        before = method.encode_image(images)
        for name in BEFORE:
            part = getattr(method, name).parts[0]
            part.copy_(part[:, [2, 0, 1]].clone())
        torch.testing.assert_close(method.encode_image(images), before)


def test_half_of_a_prompt_is_keys_and_half_values(tiny: Tiny) -> None:
    method, images = make(tiny), make_batch([0, 1]).images
    method.begin_session(make_session(0), no_extract)
    with torch.no_grad():
        method.prompts.parts[0][:, :, 2:] = 0
    prefixes = method.chosen(images).prefixes
    assert list(prefixes) == [0, 2]
    for keys, values in prefixes.values():
        assert keys.shape == values.shape == (2, 2, 160)
        assert keys.any()
        assert not values.any()


def test_prompts_of_zero_still_take_attention(tiny: Tiny) -> None:
    method, images = make(tiny), make_batch([0, 1]).images
    method.begin_session(make_session(0), no_extract)
    with torch.no_grad():
        method.prompts.parts[0].zero_()
        assert not torch.allclose(method.encode_image(images), method.backbone.encode_image(images), atol=1e-3)


def test_more_sessions_than_parts_are_refused(tiny: Tiny) -> None:
    method = make(tiny, num_sessions=2)
    method.check(2)
    with pytest.raises(ConfigError, match=r"a sequence of 3 sessions, but .* method\.num_sessions=2; set it to"):
        method.check(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 2}, "pool=2 must be from num_sessions=3"),
        ({"pool": 200}, "to the tower's width 160"),
        ({"length": 3}, "length=3 must be even"),
        ({"layers": [4]}, "prompts for block 4"),
    ],
)
def test_impossible_sizes_are_refused(tiny: Tiny, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tiny, **options)


def test_text_features_score_any_class_and_a_linear_layer_trained_ones(tiny: Tiny) -> None:
    images = make_batch([0, 1]).images
    texts, linear = make(tiny), make(tiny, head="linear")
    for method in (texts, linear):
        method.begin_session(make_session(0), no_extract)
    assert (texts.open_vocabulary, linear.open_vocabulary) == (True, False)
    assert texts.logits(images, EVERY).shape == (2, 5)
    with pytest.raises(ValueError, match="plain gray hexagon"):
        linear.logits(images, EVERY)


def test_training_compares_with_the_sessions_own_classes(tiny: Tiny) -> None:
    method = make(tiny, head="linear")
    method.begin_session(make_session(0), no_extract)
    method.begin_session(make_session(1), no_extract)
    assert method.head is not None
    method.loss(make_batch([3, 4]))["cross_entropy"].backward()
    moved = method.head.linear.rows.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [False, False, False, True, True]
