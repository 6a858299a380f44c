"""CLIP-Refine follows the official code; its random vectors follow pairs, steps and sessions, and nothing else.

The figures in tests/golden/clip_refine_official.json are the official code's, run outside the project.
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
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.clip_refine import ClipRefine, hybrid_distillation, random_alignment
from everclip.types import NO_CLASSES, Batch, Session
from tests.methods.small_clip import CLASSES, LABELS, PIXELS, batches, small_clip
from tests.methods.test_cpe_clip_official import TensorImages

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "clip_refine_official.json").read_text())
TEXTS = [f"{a} {b}." for a in ("an apple", "a bear", "a cat", "a dog") for b in ("on grass", "at night", "in snow")]
SESSION = Session(0, "pairs", NO_CLASSES, NO_CLASSES, TensorImages(PIXELS[:12], LABELS))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    return small_clip(tmp_path_factory.mktemp("small"))


@pytest.fixture
def make(small: OpenClip) -> Callable[..., ClipRefine]:
    def _make(**options: Any) -> ClipRefine:
        method = ClipRefine(copy.deepcopy(small), **options)
        method.begin_session(SESSION, no_extract)
        return method

    return _make


def no_extract(*_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    raise AssertionError("pictures come once, so the teacher sees them as they come")


def pairs(batch: Batch) -> Batch:
    return replace(batch, texts=tuple(TEXTS[i] for i in batch.indices.tolist()))


def test_it_follows_the_official_code(make: Callable[..., ClipRefine], monkeypatch: pytest.MonkeyPatch) -> None:
    method, stream = make(), np.random.RandomState(5)

    def given(indices: Tensor, features: Tensor) -> Tensor:
        return torch.from_numpy(stream.standard_normal(features.shape))

    monkeypatch.setattr(method, "references", given)
    named = {name.removeprefix("model."): p for name, p in method.backbone.named_parameters()}
    before = {name: p.detach().clone() for name, p in named.items()}
    optimizer = torch.optim.AdamW([p for p in named.values() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    for step, batch in enumerate(batches(4)):
        losses = method.loss(pairs(batch))
        expected = GOLDEN["losses"][step]
        assert {name: float(loss.detach()) for name, loss in losses.items()} == pytest.approx(expected, abs=1e-9)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        for name, norm in GOLDEN["gradient"].items() if step == 0 else ():
            assert float(named[name].grad.norm()) == pytest.approx(norm, abs=1e-9), name
        optimizer.step()
    update = {name: p.detach() - before[name] for name, p in named.items()}
    assert sum(bool(change.any()) for change in update.values()) == GOLDEN["changed"]
    for name, expected in GOLDEN["update"].items():
        assert float(update[name].norm()) == pytest.approx(expected["norm"], abs=1e-9), name
        np.testing.assert_allclose(update[name].flatten()[:4], expected["first"], rtol=0, atol=1e-9, err_msg=name)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(make: Callable[..., ClipRefine]) -> None:
    method = make(alignment_weight=0.0, blend=0.0)
    losses = method.loss(pairs(batches(4)[0]))
    torch.stack(list(losses.values())).sum().backward()
    assert float(losses["distillation"].detach()) == pytest.approx(0, abs=1e-12)
    assert max(float(p.grad.abs().max()) for p in method.parameters() if p.grad is not None) < 1e-12


def test_the_pairing_alone_is_clips_loss() -> None:
    stream = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(5, 5, generator=stream, dtype=torch.float64) for _ in range(2))
    clip = (F.cross_entropy(20 * logits, torch.arange(5)) + F.cross_entropy(20 * logits.T, torch.arange(5))) / 2
    found = hybrid_distillation(logits, teacher, blend=1.0, temperature=1 / 20)
    torch.testing.assert_close(20**2 * found, clip)


def test_alignment_is_the_mean_over_all_values_of_both() -> None:
    pictures, texts, references = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 1.0]])
    assert float(random_alignment(pictures, texts, references)) == (0 + 1) / 2 + (1 + 9) / 2


def test_random_vectors_follow_pairs_steps_and_sessions(make: Callable[..., ClipRefine]) -> None:
    method, features = make(std=2.0), torch.zeros(5, 8, dtype=torch.float64)
    indices = torch.tensor([7, 3, 11, 0, 5])
    drawn = method.references(indices, features)
    order = [4, 2, 0, 1, 3]  # as processes may gather them
    assert torch.equal(method.references(indices[order], features), drawn[order])
    assert not drawn[0].equal(drawn[1])
    method.after_step()
    after = method.references(indices, features)
    assert not after.equal(drawn)
    assert "step" in method.state_dict()  # so that a run that goes on draws what it would have drawn
    method.begin_session(replace(SESSION, index=1), no_extract)
    assert not method.references(indices, features).equal(drawn)


def test_both_features_of_a_pair_are_pulled_to_its_vector(make: Callable[..., ClipRefine]) -> None:
    method, batch = make(std=2.0, alignment_weight=3.0), pairs(batches(4)[1])
    losses = method.loss(batch)
    with torch.no_grad():
        pictures = method.backbone.encode_image(batch.images, normalize=False)
        texts = method.backbone.encode_text(method.backbone.tokenize(batch.texts or ()), normalize=False)
    vectors = 2.0 * method.references(batch.indices, pictures)
    torch.testing.assert_close(losses["alignment"].detach(), 3.0 * random_alignment(pictures, texts, vectors))


def test_labelled_pictures_have_the_texts_of_their_classes(make: Callable[..., ClipRefine]) -> None:
    method, batch = make(), batches(4)[0]
    method.begin_session(replace(SESSION, new=CLASSES, seen=CLASSES), no_extract)
    texts = tuple(f"a photo of a {CLASSES.names[label]}." for label in batch.labels.tolist())
    assert method.loss(batch) == method.loss(replace(batch, texts=texts))
