from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from everclip.backbones.open_clip import OpenClip
from everclip.methods.l2p import L2p
from everclip.modules.prompt_pool import make_query
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract


def make(tiny: Tiny, **options: object) -> L2p:
    torch.manual_seed(0)
    method = L2p(tiny(), **({"pool": 5, "length": 4, "top_k": 2} | options))  # type: ignore[arg-type]  # one test's
    with torch.no_grad():
        method.keys.copy_(torch.randn(method.keys.shape))
    method.begin_session(make_session(0), no_extract)
    return method


def test_parameter_count_on_vit_b16() -> None:
    method = L2p(OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False))
    assert method.num_trainable() == 10 * 10 * 768 + 10 * 768


@pytest.mark.parametrize(("form", "expected"), [("input", [25] * 4), ("prefix", [17] * 4)])
def test_token_counts_entering_the_blocks(tiny: Tiny, form: str, expected: list[int]) -> None:
    method, counts = make(tiny, form=form), []
    images = make_batch([0]).images
    edit = method.chosen(images)
    for block in method.backbone.model.visual.transformer.resblocks:
        block.ln_1.register_forward_pre_hook(lambda module, inputs: counts.append(inputs[0].shape[1]))
    method.backbone.encode_image(images, edit)
    assert counts == expected


def test_each_picture_gets_the_prompts_of_its_nearest_keys(tiny: Tiny) -> None:
    method, images = make(tiny, form="prefix"), make_batch([0, 1, 2]).images
    query = make_query(method.backbone, images)
    keys, values = method.chosen(images).prefixes[0]  # type: ignore[attr-defined]  # of this form
    for row in range(3):
        first, second = F.cosine_similarity(query[row], method.keys).argsort(descending=True)[:2]
        assert torch.equal(keys[row], torch.cat([method.prompts[first, :2], method.prompts[second, :2]]))
        assert torch.equal(values[row], torch.cat([method.prompts[first, 2:], method.prompts[second, 2:]]))


@pytest.mark.parametrize(("choice", "prompts"), [("batch", 1), ("picture", 3)])
def test_a_batch_trains_the_prompts_of_most_of_its_pictures(tiny: Tiny, choice: str, prompts: int) -> None:
    method, batch = make(tiny, top_k=1, choice=choice, key_weight=2.0), make_batch([0, 1, 2, 2])
    query = make_query(method.backbone, batch.images)
    with torch.no_grad():
        method.keys[:3] = query[:3] - query.mean(dim=0)
        method.keys[3:] = -query.mean(dim=0)
    cosines = method.cosines(query)
    nearest = cosines.argmax(dim=1)
    assert len(set(nearest.tolist())) == 3
    losses = method.loss(batch)
    sum(losses.values()).backward()  # type: ignore[union-attr]  # tensors
    trained = method.prompts.grad.abs().sum(dim=(1, 2)).nonzero().flatten()
    assert len(trained) == prompts
    pulled = cosines[torch.arange(4), nearest] if choice == "picture" else cosines[:, int(trained)]
    torch.testing.assert_close(losses["key"], 2 * (1 - pulled).mean())


def test_the_linear_layer_reads_the_outputs_of_the_prompts(tiny: Tiny) -> None:
    method, images = make(tiny, head="linear"), make_batch([0, 1]).images
    assert method.chosen(images).readout == slice(1, 9)
    assert make(tiny).chosen(images).readout == slice(0, 1)
    assert make(tiny, head="linear", form="prefix").chosen(images).readout == slice(0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top_k": 6}, "top_k=6 prompts of a pool=5"), ({"form": "prefix", "length": 3}, "length=3 must be even")],
)
def test_impossible_sizes_are_refused(tiny: Tiny, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tiny, **options)


def test_text_features_score_any_class_and_a_linear_layer_trained_ones(tiny: Tiny) -> None:
    images = make_batch([0, 1]).images
    texts, linear = make(tiny), make(tiny, head="linear")
    assert (texts.open_vocabulary, linear.open_vocabulary) == (True, False)
    assert texts.logits(images, EVERY).shape == (2, 5)
    with pytest.raises(ValueError, match="plain gray hexagon"):
        linear.logits(images, EVERY)
