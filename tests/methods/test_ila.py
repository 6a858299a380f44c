"""ILA follows the official code; tests/golden/ila_official.json says how its figures were made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.errors import ConfigError
from everclip.methods.ila import Ila
from everclip.modules.alignment import Alignment, masks, merged
from everclip.types import Batch, ClassSet, ParameterGroup, Session
from tests.methods.official_clips import CLIPS, LABELS, NAMES, make_backbone, summary, values

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ila_official.json").read_text())
CLASSES = ClassSet((0, 1, 2), NAMES, ("{}",))
SPREAD = float(np.float32(0.2))  # which the official code has in single precision
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
# Patterns of names of weights in the official code, and their names here.
NAMED = (
    (r"visual\.transformer\.resblocks\.(\d+)\.", r"alignments.\1."),
    (r"message_attn\.interactive_block\.0\.depthwise_conv\.", "interact."),
    (r"message_attn\.interactive_block\.0\.pointwise_conv\.0", "interact.3"),
    (r"message_attn\.interactive_block\.0\.pointwise_conv\.1", "interact.4"),
    (r"message_attn\.prediction_block\.10", "look.9"),
    (r"message_attn\.prediction_block\.12", "look.11"),
    (r"message_attn\.prediction_block\.", "look."),
    (r"message_attn\.conv", "over_time"),
    (r"message_attn\.fc", "widen"),
    (r"message_fc", "message"),
    (r"message_ln", "message_norm"),
    (r"temporal_skip_align_fc", "add_aligned"),
    (r"temporal_skip_fc", "add_common"),
    (r"mit\.positional_embedding", "integration.positions"),
    (r"mit\.resblocks\.", "integration.blocks."),
)


def ours(name: str, separable: bool) -> str:
    """What a weight of an official name is called here."""
    first, second = ("6", "7") if separable else ("3", "4")
    own = {"1": first, "2": second} if separable else {"0": "0", "1": "1", "3": first, "4": second}
    for pattern, here in NAMED:
        name = re.sub(pattern, here, name)
    return re.sub(r"message_attn\.interactive_block\.(\d)", lambda found: f"interact.{own[found[1]]}", name)


def begin(method: Ila, texts: Tensor | None = None) -> Ila:
    samples = ArrayImages(np.zeros((1, 16, 16, 3), np.uint8), np.array([0]), "empty")
    method.begin_session(Session(0, "base", CLASSES, CLASSES, samples), lambda *_, **__: (Tensor(), Tensor()))
    method.texts = method.texts if texts is None else texts
    return method


def make_official(folder: Path, names: list[str], **options: Any) -> Ila:
    """With the weights of an official run."""
    options = {"num_frames": 3, "channels": 32, "mixup": 0, "cutmix": 0, "spread": SPREAD, **options}
    method = begin(Ila(make_backbone(folder), **options).double(), F.normalize(values(7, 3, 16)))
    with torch.no_grad():
        for number, name in enumerate(sorted(names)):
            parameter = method.get_parameter(ours(name, options.get("separable", True)))
            parameter.copy_(values(100 + number, parameter.numel(), scale=0.2).view_as(parameter))
    return method


def features(method: Ila, spread: float) -> tuple[Tensor, float]:
    with torch.no_grad():
        video, apart = method._read(CLIPS, spread)
    return video, float(apart.mean())


def check(found: tuple[Tensor, float], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found[0].detach(), torch.tensor(expected["video"], dtype=torch.float64), **CLOSE)
    assert found[1] == pytest.approx(expected["cosine"], rel=1e-8)


def check_all(method: Ila, expected: dict[str, list[float]], what: Callable[[Tensor], Any], separable: bool) -> None:
    for name, figures in expected.items():
        found = summary(what(method.get_parameter(ours(name, separable))))
        assert found == pytest.approx(figures, rel=1e-6, abs=1e-8), name


def test_features_losses_gradients_and_a_step_follow_the_official_code(tmp_path: Path) -> None:
    golden = GOLDEN["kinetics"]
    rates = {"skip_lr": 0.02, "skip_decay": 0.2, "integration_lr": 0.005, "integration_decay": 0.3}
    method = make_official(tmp_path, list(golden["gradients"]), **rates)
    check(features(method.eval(), 0.0), golden["evaluated"])
    losses = method.train().loss(Batch(CLIPS, LABELS, torch.arange(4)))
    expected = {name: golden["trained"][name] for name in ("cross_entropy", "cosine")}
    assert {name: float(loss.detach()) for name, loss in losses.items()} == pytest.approx(expected, rel=1e-9)
    torch.stack(list(losses.values())).sum().backward()
    check_all(method, golden["gradients"], lambda parameter: parameter.grad, True)
    (phase,) = method.phases(None)  # type: ignore[arg-type]  # it asks nothing of the session
    groups = [group for group in phase.parameters or () if isinstance(group, ParameterGroup)]
    own = [
        {"params": g.parameters} | {k: v for k in ("lr", "weight_decay") if (v := getattr(g, k)) is not None}
        for g in groups
    ]
    torch.optim.AdamW(own, lr=0.01, weight_decay=0.1, betas=(0.9, 0.98)).step()
    check_all(method, golden["updated"], lambda parameter: parameter, True)
    check(features(method.eval(), 0.0), golden["evaluated_after"])


def test_plain_convolutions_follow_the_official_code_of_another_branch(tmp_path: Path) -> None:
    golden = GOLDEN["something"]
    method = make_official(tmp_path, golden["names"], separable=False, zero_init=True)
    check(features(method.eval(), 0.0), golden["evaluated"] | {"video": doubled(golden["evaluated"]["video"])})
    method.train()
    video, apart = method._read(CLIPS, SPREAD)
    check((video, float(apart.mean().detach())), golden["trained"] | {"video": doubled(golden["trained"]["video"])})
    logits = 100 * F.normalize(video, dim=-1) @ method.texts.T
    (F.cross_entropy(logits, LABELS, label_smoothing=0.1) + apart.mean()).backward()
    check_all(method, golden["gradients"], lambda parameter: parameter.grad, False)


def doubled(video: list[list[float]]) -> list[list[float]]:
    """A transformer that adds nothing hands frames on beside the frames."""
    return [[2 * value for value in row] for row in video]


NOISE = torch.randn(3, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make(tiny: Callable[[], OpenClip]) -> Callable[..., Ila]:
    def make(**options: Any) -> Ila:
        torch.manual_seed(0)
        return begin(
            Ila(tiny(), **{"layers": [1, -1], "channels": 16, "norm": "group", "mixup": 0, "cutmix": 0, **options})
        )

    return make


def drawn(method: Ila) -> Ila:
    """With numbers for what is zero at first."""
    stream = torch.Generator().manual_seed(0)
    for parameter in method.alignments.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=stream)
    return method


@torch.no_grad()
def test_at_first_a_clip_is_the_mean_of_its_frames(make: Callable[..., Ila]) -> None:
    method = make(zero_init=True)
    for images in (NOISE, NOISE[:, 0]):
        expected = method.backbone.encode_image(images)
        torch.testing.assert_close(method.encode_image(images), expected, rtol=0, atol=2e-6)
        assert not torch.allclose(make().encode_image(images), expected, atol=1e-3)


@torch.no_grad()
def test_the_order_of_frames_counts_and_a_picture_is_a_clip_that_stands_still(make: Callable[..., Ila]) -> None:
    method = drawn(make(zero_init=True))
    assert not torch.allclose(method.encode_image(NOISE.flip(1)), method.encode_image(NOISE), atol=1e-3)
    still = NOISE[:, :1].expand(-1, 2, -1, -1, -1)
    for images in (NOISE[:, 0], NOISE[:, :1]):
        assert torch.equal(method.encode_image(images), method.encode_image(still))


def test_masks_by_hand() -> None:
    mask = masks(torch.tensor([0.0, 0.0]), 9, 0.0)
    side = torch.tensor([0, 0.25, 0.625, 1, 1, 1, 0.625, 0.25, 0])  # at -1, -0.75, ..., 1
    torch.testing.assert_close(mask, side[:, None] * side)
    right = masks(torch.tensor([0.5, -0.75]), 9, 0.0)  # x, y
    assert right[1, 6] == 1
    assert right[6, 1] == 0
    points = values(0, 2, 3, 2)
    around = [masks(points + 0.2 * torch.tensor([x, y]), 7, 0.0) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    torch.testing.assert_close(masks(points, 7, 0.2), torch.stack(around).mean(dim=0))


def test_a_frame_is_the_mean_of_what_it_is_in_its_pairs() -> None:
    before, after = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    assert merged(before, after).tolist() == [[1, 6, 11.5, 30]]
    assert merged(before[:, :1], after[:, :1]).tolist() == [[1, 10]]


def test_frames_that_are_equal_agree_around_one_point() -> None:
    part, tokens = Alignment(32, 16, True, "group").double(), values(0, 2, 17, 32).repeat_interleave(3, dim=0)
    added, apart = part(tokens, 3, 0.2)
    assert apart.shape == (2, 2)
    torch.testing.assert_close(apart, torch.zeros(2, 2).double(), rtol=0, atol=1e-12)
    assert not added.any()
    _, apart = part(tokens + values(1, 6, 17, 32), 3, 0.2)
    assert 0 < apart.min() < apart.max() < 2


def test_the_masks_of_training_narrow_late_in_a_session(
    make: Callable[..., Ila], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, seen = make(spread=0.4, spread_epochs=2), list[float]()

    def read(images: Tensor, spread: float) -> tuple[Tensor, Tensor]:
        seen.append(spread)
        return torch.ones(len(images), 96), torch.ones(len(images), 2)

    monkeypatch.setattr(method, "_read", read)
    for _ in range(4):
        method.loss(Batch(NOISE, LABELS[:3], torch.arange(3)))
        method.after_epoch()
    method.encode_image(NOISE)
    begin(method).loss(Batch(NOISE, LABELS[:3], torch.arange(3)))
    assert seen == [0.4, 0.4, 0.2, 0.1, 0, 0.4]


def test_clips_share_nothing_unless_norms_or_mixing_do(make: Callable[..., Ila]) -> None:
    method = drawn(make()).train()
    assert not method.couples_batch
    assert make(norm="batch").couples_batch
    assert make(mixup=0.8).couples_batch
    whole = method.loss(Batch(NOISE, LABELS[:3], torch.arange(3)))
    parts = [method.loss(Batch(NOISE[i : i + 1], LABELS[i : i + 1], torch.arange(1))) for i in range(3)]
    method.backbone.pieces = 3
    pieces = method.loss(Batch(NOISE, LABELS[:3], torch.arange(3)))
    for name, loss in whole.items():
        torch.testing.assert_close(torch.stack([part[name] for part in parts]).mean(), loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pieces[name], loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("separable", "published"), [(True, 40_465_200), (False, 77_992_752)])
def test_parameter_count_on_vit_b16_is_the_official_codes(separable: bool, published: int) -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    with torch.device("meta"):
        method = Ila(backbone, separable=separable)
    assert sum(p.numel() for p in method.alignments.parameters()) == published
    assert method.num_trainable() == published + 3_156_480


def test_processes_go_on_with_the_mean_of_their_statistics(
    make: Callable[..., Ila], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make(norm="batch")
    monkeypatch.setattr("everclip.methods.ila.global_sum", lambda own: own + (1 if own.ndim == 0 else 5))
    method.end_session(None, None)  # type: ignore[arg-type]  # it asks nothing of them
    norm = method.alignments["1"].interact[1]
    assert norm.running_mean.unique().tolist() == [2.5]  # of 0 and 5
    assert norm.running_var.unique().tolist() == [3]  # of 1 and 5


def test_a_grid_that_cannot_be_halved_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4 by 4 patches, but this backbone has 3 by 3"):
        Alignment(32, 16, True, "group")(torch.randn(2, 10, 32), 2, 0.0)


def test_channels_that_cannot_be_halved_into_groups_are_refused(tiny: Callable[[], OpenClip]) -> None:
    with pytest.raises(ValueError, match=r"method\.channels=24: .* use a multiple of 16"):
        Ila(tiny(), channels=24)
