from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from everclip.backbones.base import Backbone
from everclip.backbones.open_clip import OpenClip
from everclip.config.schema import conf_dir
from everclip.data.images import ArrayImages
from everclip.methods.cpe_clip import CpeClip
from everclip.modules.prompts import DeepPrompts
from everclip.training.schedules import Schedule
from everclip.types import Batch, ClassSet, Session

Tiny = Callable[[], Backbone]
NAMES = ("striped red star", "plain blue heart", "dotted green ring", "outlined pink cross", "plain gray hexagon")
EVERY = ClassSet(tuple(range(5)), NAMES)


def make_session(index: int) -> Session:
    """Classes 0-2 in the base session, 3-4 in the next."""
    new = EVERY.select([0, 1, 2] if index == 0 else [3, 4])
    images = ArrayImages(np.zeros((1, 32, 32, 3), np.uint8), np.array([new.ids[0]]), "empty")
    return Session(index, f"s{index}", new, EVERY.select([0, 1, 2]) if index == 0 else EVERY, images)


def make_batch(labels: list[int], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(labels), 3, 32, 32, generator=generator)
    return Batch(images, torch.tensor(labels), torch.arange(len(labels)))


def make(tiny: Tiny, **options: object) -> CpeClip:
    torch.manual_seed(0)
    return CpeClip(tiny(), **options)  # type: ignore[arg-type]  # keywords of one test


def no_extract(images: object, encode: object) -> tuple[Tensor, Tensor]:
    raise AssertionError("cpe_clip extracts nothing")


def test_parameter_count_on_vit_b16_is_the_published_one() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert CpeClip(backbone).num_trainable() == 406_272
    assert CpeClip(backbone, vision_prompts=False).num_trainable() == 12_288


def test_prompts_begin_in_the_xavier_range(tiny: Tiny) -> None:
    method = make(tiny, prompt_depth=3, prompt_length=2)
    # A 3-D tensor: fan_in is length * width, fan_out is depth * width.
    assert method.prompts.abs().max() <= math.sqrt(6 / (96 * (2 + 3)))
    assert method.prompts.abs().max() > 0.9 * math.sqrt(6 / (96 * (2 + 3)))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("replace", [19, 19, 19, 19]), ("accumulate", [19, 21, 23, 25]), ("accumulate_same", [19, 21, 23, 25])],
)
def test_token_counts_entering_the_vision_blocks(
    tiny: Tiny, mode: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make(tiny, vision_mode=mode)
    counts = []
    for block in method.backbone.model.visual.transformer.resblocks:
        block.ln_1.register_forward_pre_hook(lambda module, inputs: counts.append(inputs[0].shape[1]))
    method.encode_image(make_batch([0]).images)
    assert counts == expected


def test_depth_1_makes_all_modes_equal(tiny: Tiny) -> None:
    images = make_batch([0, 1]).images
    logits = [
        make(tiny, prompt_depth=1, text_mode=mode, vision_mode=mode).logits(images, EVERY)
        for mode in ("replace", "accumulate", "accumulate_same")
    ]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_modes_differ_when_deep(tiny: Tiny) -> None:
    images = make_batch([0, 1]).images
    modes = ("replace", "accumulate", "accumulate_same")
    logits = [make(tiny, vision_mode=mode).logits(images, EVERY) for mode in modes]
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], logits[2])


def test_the_order_of_vision_prompts_does_not_matter(tiny: Tiny) -> None:
    method = make(tiny, vision_mode="accumulate")
    images = make_batch([0, 1]).images
    with torch.no_grad():
        before = method.encode_image(images)
        method.prompts.copy_(method.prompts.flip(1))
        torch.testing.assert_close(method.encode_image(images), before)


def test_trailing_pads_do_not_change_text_features(tiny: Tiny) -> None:
    method = make(tiny)
    tokens = method.backbone.tokenize([f"{name}." for name in NAMES])
    padded = F.pad(tokens, (0, 9))
    features = [
        method.backbone.encode_text(t, DeepPrompts(method.prompts, "accumulate", "start")) for t in (tokens, padded)
    ]
    torch.testing.assert_close(features[0], features[1])


def gradients(method: CpeClip, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Loss, and the gradient of everything that is trained."""
    method.begin_session(make_session(1), no_extract)
    loss = method.loss(batch)["cross_entropy"]
    loss.backward()
    return loss, [p.grad for p in (method.prompts, *method.projection.parameters())]


def test_loss_equals_the_masked_loss_over_all_seen_classes(tiny: Tiny) -> None:
    batch = make_batch([3, 4, 4])
    batch = Batch(batch.images.double(), batch.labels, batch.indices)
    method = make(tiny).double()
    loss, ours = gradients(method, batch)

    method.zero_grad(set_to_none=True)
    logits = method.logits(batch.images, EVERY)
    naive = F.cross_entropy(torch.cat([torch.full_like(logits[:, :3], -9999), logits[:, 3:]], dim=1), batch.labels)
    naive.backward()
    torch.testing.assert_close(loss, naive)
    for gradient, parameter in zip(ours, (method.prompts, *method.projection.parameters()), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["replace", "accumulate", "accumulate_same"])
def test_figures_equal_those_of_the_naive_form(tiny: Tiny, mode: str) -> None:
    batch = make_batch([3, 4, 4])
    naive, ours = (make(tiny, exact_naive=exact, text_mode=mode, vision_mode=mode) for exact in (True, False))
    assert naive.backbone.naive
    (naive_loss, expected), (loss, found) = gradients(naive, batch), gradients(ours, batch)
    assert loss.item() == pytest.approx(naive_loss.item(), rel=1e-5)
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-5 * float(reference.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(
            ours.logits(batch.images, EVERY), naive.logits(batch.images, EVERY), rtol=1e-5, atol=1e-4
        )


def count_rows(method: CpeClip) -> list[int]:
    """Texts that enter the text tower from now on, filled as it is called."""
    rows: list[int] = []
    embedding = method.backbone.model.token_embedding
    embedding.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    return rows


def test_only_new_classes_pass_the_text_tower_in_training_and_all_once_in_evaluation(tiny: Tiny) -> None:
    method, naive = make(tiny), make(tiny, exact_naive=True)
    for made, expected in ((method, [2]), (naive, [5])):
        rows = count_rows(made)
        made.begin_session(make_session(1), no_extract)
        made.loss(make_batch([3, 4]))
        assert rows == expected
    rows = count_rows(method)
    classify = method.classifier(EVERY)
    for _ in range(3):
        classify(make_batch([0, 1]).images)
    assert rows == [5]


def test_nothing_is_kept_for_the_backward_pass_of_the_frozen_patch_embedding(tiny: Tiny) -> None:
    method = make(tiny)
    seen: dict[str, bool] = {}
    visual = method.backbone.model.visual
    visual.conv1.register_forward_hook(lambda *call: seen.update(patches=call[2].requires_grad))
    visual.ln_post.register_forward_hook(lambda *call: seen.update(end=call[2].requires_grad))
    method.encode_image(make_batch([0]).images)
    assert seen == {"patches": False, "end": True}


@pytest.mark.parametrize(
    ("index", "regularizer", "factor"), [(0, "balance", 1.0), (1, "balance", 2 / 5), (1, "none", 1.0)]
)
def test_first_step_scales_the_gradient_but_not_the_weight_decay(
    tiny: Tiny, index: int, regularizer: str, factor: float
) -> None:
    method = make(tiny, regularizer=regularizer)
    method.begin_session(make_session(index), no_extract)
    optimizer = torch.optim.SGD([method.prompts], lr=0.001, momentum=0.9, weight_decay=1e-2)
    method.loss(make_batch([0, 1] if index == 0 else [3, 4]))["cross_entropy"].backward()
    before, gradient = method.prompts.detach().clone(), method.prompts.grad.clone()
    method.before_step()
    optimizer.step()
    torch.testing.assert_close(method.prompts - before, -0.001 * (factor * gradient + 1e-2 * before))


def test_configured_schedule_gives_the_rates_of_the_official_runs() -> None:
    conf = conf_dir()
    node = OmegaConf.load(conf / "scheduler" / "warmup_cosine_epochs.yaml")
    options = {str(key): value for key, value in node.items() if key != "_target_"}
    top = OmegaConf.load(conf / "method" / "cpe_clip.yaml").optimizer.lr
    schedule = Schedule(**options)
    rates = [top * schedule.factor(epoch, 5) for epoch in range(6)]
    assert rates == pytest.approx([0.001, 0.00298, 0.00496, 0.00694, 0.00892, 0.0109])


def test_too_many_prompt_blocks_are_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="prompt_depth=5, but the text tower has 4 blocks"):
        make(tiny, prompt_depth=5)
