from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.methods.dualprompt import DualPrompt
from everclip.modules.prompt_pool import make_query
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def make(tiny: Tiny, **options: object) -> DualPrompt:
    torch.manual_seed(0)
    defaults = {"num_sessions": 3, "general_length": 2, "expert_length": 3, "expert_layers": [2, 3]}
    return DualPrompt(tiny(), **(defaults | options))  # type: ignore[arg-type]  # keywords of one test


def test_parameter_count_on_vit_b16() -> None:
    method = DualPrompt(OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False), num_sessions=10)
    # 2 blocks of 2 * 5 general rows, 10 experts of 3 blocks with 2 * 5 rows, 10 keys.
    assert method.num_trainable() == 768 * (2 * 10 + 10 * 3 * 10 + 10)


def test_training_takes_the_sessions_expert_and_pulls_its_key(tiny: Tiny) -> None:
    method, batch = make(tiny, key_weight=2.0), make_batch([3, 4])
    method.begin_session(make_session(0), no_extract)
    method.begin_session(make_session(1), no_extract)
    query = make_query(method.backbone, batch.images)
    with torch.no_grad():
        method.keys.parts[0].copy_(query.mean(dim=0))  # the nearest
        method.keys.parts[1].copy_(-query.mean(dim=0))
    losses = method.loss(batch)
    expected = 2 * (1 - F.cosine_similarity(query, -query.mean(dim=0)[None])).mean()
    torch.testing.assert_close(losses["key"], expected)
    sum(losses.values()).backward()  # type: ignore[union-attr]  # tensors
    for parts in (method.experts, method.keys):
        assert [part.grad is None or not part.grad.any() for part in parts.parts] == [True, False, True]
    assert method.general.grad.any()


def test_evaluation_takes_the_expert_of_the_nearest_key(tiny: Tiny) -> None:
    method, images = make(tiny), make_batch([0, 1, 2]).images
    for index in (0, 1):
        method.begin_session(make_session(index), no_extract)
    query = make_query(method.backbone, images)
    with torch.no_grad():
        method.keys.parts[0].copy_(query[1])
        method.keys.parts[1].copy_(query[0])
        method.keys.parts[2].copy_(query[2])  # its session has not been
        prefixes = method.chosen(images).prefixes
    assert list(prefixes) == [0, 1, 2, 3]
    nearest = F.cosine_similarity(query[2:], query[:2]).argmax()
    for layer, expert in ((2, 0), (3, 1)):
        for kind in (0, 1):
            rows = [method.experts.parts[index][expert, 0, kind] for index in (1, 0, 1 - int(nearest))]
            assert torch.equal(prefixes[layer][kind], torch.stack(rows))
            assert torch.equal(prefixes[expert][kind][0], method.general[expert, kind])


def test_more_sessions_than_experts_are_refused(tiny: Tiny) -> None:
    method = make(tiny, num_sessions=2)
    method.check(2)
    with pytest.raises(ConfigError, match=r"a sequence of 3 sessions, but .* method\.num_sessions=2; set it to"):
        method.check(3)


def test_a_block_with_both_prefixes_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"share the blocks \[1\]"):
        make(tiny, expert_layers=[1, 2])


def test_text_features_score_any_class_and_a_linear_layer_trained_ones(tiny: Tiny) -> None:
    images = make_batch([0, 1]).images
    texts, linear = make(tiny), make(tiny, head="linear")
    for method in (texts, linear):
        method.begin_session(make_session(0), no_extract)
    assert (texts.open_vocabulary, linear.open_vocabulary) == (True, False)
    assert texts.logits(images, EVERY).shape == (2, 5)
    with pytest.raises(ValueError, match="plain gray hexagon"):
        linear.logits(images, EVERY)
