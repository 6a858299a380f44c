"""Both phases of DCLIP follow the authors' code; a teacher sees neither padding nor what it does not read.

The figures in tests/golden/dclip_official.json are that code's, run outside the project; its first key says how.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.methods.dclip import Dclip, contrast
from everclip.modules.regions import RegionAttention, Regions, grid_boxes, pooled
from everclip.types import NO_CLASSES, Batch, ParameterGroup, Phase, Samples, Session
from tests.methods.small_clip import LABELS, PIXELS, batches, small_clip
from tests.methods.test_cpe_clip_official import TensorImages

GOLDEN = Path(__file__).parents[1] / "golden" / "dclip_official.json"
TEXTS = ["a cat.", "a red apple on grass.", "two bears at night.", "eggs."] * 3  # of several lengths
HEADS = 2
REGIONS = torch.from_numpy(np.random.RandomState(7).standard_normal((12, 5, 8)))
SESSION = Session(0, "pairs", NO_CLASSES, NO_CLASSES, TensorImages(PIXELS[:12], LABELS))


def teacher_weights() -> dict[str, Tensor]:
    """Random weights of the teacher by name."""
    stream, filled = np.random.RandomState(8), {}
    for name, value in sorted(RegionAttention(8, HEADS, 2.0).state_dict().items()):
        z = stream.standard_normal(tuple(value.shape))
        filled[name] = torch.from_numpy(1 + 0.1 * z if name.startswith("norm") and name.endswith("weight") else z / 3)
    return filled


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    return small_clip(tmp_path_factory.mktemp("small"))


@pytest.fixture
def make(small: OpenClip) -> Callable[..., Dclip]:
    def _make(**options: Any) -> Dclip:
        method = Dclip(copy.deepcopy(small), heads=HEADS, **options).double()
        method.teacher.load_state_dict(teacher_weights())
        method.begin_session(SESSION, given_regions)
        return method

    return _make


def given_regions(samples: Samples, encode: Callable[[Tensor], Tensor], **_: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(samples, Regions)
    return REGIONS, torch.zeros(12)


def pairs(batch: Batch) -> Batch:
    return replace(batch, texts=tuple(TEXTS[i] for i in batch.indices.tolist()))


def parameters(phase: Phase) -> list[nn.Parameter]:
    groups = [part if isinstance(part, ParameterGroup) else ParameterGroup((part,)) for part in phase.parameters or ()]
    return [parameter for group in groups for parameter in group.parameters]


def run(method: Dclip, phase: Phase, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    steps = []
    for batch in batches(4):
        losses = (phase.loss or method.loss)(pairs(batch))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        steps.append({name: float(loss.detach()) for name, loss in losses.items()})
    return steps


def test_both_phases_follow_the_authors_code(make: Callable[..., Dclip]) -> None:
    golden, method = json.loads(GOLDEN.read_text()), make()
    with torch.no_grad():
        target, _ = method._target(pairs(batches(4)[0]))
    np.testing.assert_allclose(target, golden["target"], rtol=0, atol=1e-9)
    first, second = method.phases(SESSION)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    steps = run(method, first, torch.optim.Adam(parameters(first), lr=1e-3))
    assert [step["teacher"] for step in steps] == pytest.approx(golden["teacher_losses"], abs=1e-9)
    for name, norm in golden["teacher_update"].items():
        change = method.teacher.get_parameter(name).detach() - before[f"teacher.{name}"]
        assert float(change.norm()) == pytest.approx(norm, abs=1e-9), name
    steps = run(method, second, torch.optim.AdamW(parameters(second), lr=1e-3, weight_decay=0.01))
    assert steps == [pytest.approx(expected, abs=1e-9) for expected in golden["student_losses"]]
    update = {
        name.removeprefix("backbone.model."): p.detach() - before[name]
        for name, p in method.named_parameters()
        if name.startswith("backbone.")
    }
    assert sum(bool(change.any()) for change in update.values()) == golden["changed"]
    assert all(name.startswith("visual.") for name, change in update.items() if change.any())
    for name, expected in golden["student_update"].items():
        assert float(update[name].norm()) == pytest.approx(expected["norm"], abs=1e-9), name
        np.testing.assert_allclose(update[name].flatten()[:4], expected["first"], rtol=0, atol=1e-9, err_msg=name)


def test_padding_of_texts_changes_nothing(make: Callable[..., Dclip]) -> None:
    method, batch = make(), pairs(batches(4)[0])
    with torch.no_grad():
        together, texts = method._target(batch)
        for i in range(4):
            alone, text = method._target(replace(batch.map(lambda t, i=i: t[i : i + 1]), texts=batch.texts[i : i + 1]))
            torch.testing.assert_close((alone[0], text[0]), (together[i], texts[i]))


def test_a_teacher_without_outputs_of_attention_normalises_what_it_reads() -> None:
    block = RegionAttention(8, HEADS, 2.0).double()
    for attention in (block.words_to_regions, block.regions_to_words):
        nn.init.zeros_(attention.out_proj.weight)
    word, region = (torch.from_numpy(np.random.RandomState(i).standard_normal((2, 1, 8))) for i in range(2))
    expected = (F.layer_norm(word, (8,)) + F.layer_norm(region, (8,)))[:, 0] / 2
    torch.testing.assert_close(block(word, region, torch.zeros(2, 1, dtype=torch.bool)).detach(), expected)


def test_pooling_by_hand() -> None:
    # The mean is (1, 1) / 2; both cosines with it are sqrt(1/2), so that the weights are equal.
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    torch.testing.assert_close(pooled(rows, 2.0, torch.tensor([[False, False, True]])), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(pooled(rows[:, 2:], 2.0), rows[:, 2])


def test_without_distillation_it_is_contrast_with_the_texts(make: Callable[..., Dclip]) -> None:
    method, batch = make(distillation_weight=0.0), pairs(batches(4)[0])
    losses = method.loss(batch)
    logits = (method.encode_image(batch.images) @ method.encode_text(batch.texts or ()).T / 0.05).detach()
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(sum(losses.values(), torch.zeros(())).detach(), expected)
    assert contrast(batch.indices, logits, logits, 0.05) < expected


def test_the_cells_of_grids_cover_a_picture() -> None:
    boxes = grid_boxes((10, 7), [1, 3])
    assert boxes[0] == (0, 0, 10, 7)
    assert boxes[1:4] == [(0, 0, 3, 2), (3, 0, 6, 2), (6, 0, 10, 2)]
    assert boxes[-1] == (6, 4, 10, 7)
    assert len(boxes) == 10
    assert grid_boxes((1, 1), [2]) == [(0, 0, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1)]


def test_regions_are_read_as_pictures_of_their_own(tiny: Callable[[], OpenClip]) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    backbone = tiny()
    regions = Regions(ArrayImages(pixels, np.arange(3), "regions"), [1, 2])
    images = regions.subset([2, 0]).read([0], backbone.resize).images
    assert images.shape == (1, 5, 3, 32, 32)
    corner = backbone.resize(Image.fromarray(pixels[2]).crop((16, 16, 32, 32)))
    assert torch.equal(images[0, 4], corner)
    assert torch.equal(images[0, 0], torch.from_numpy(pixels[2]).permute(2, 0, 1))


def test_heads_that_do_not_divide_the_width_are_refused(small: OpenClip) -> None:
    with pytest.raises(ValueError, match=r"method\.heads=3 does not divide the width 8"):
        Dclip(small, heads=3)
