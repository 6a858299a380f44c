"""Long-CLIP's losses, gradients and steps follow the official code's own numbers, see tests/methods/long_texts.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.pairs import CaptionedImages
from everclip.losses.principal_components import reconstructed
from everclip.methods.long_clip import JoinedCaptions, LongClip, first_sentence
from everclip.objectives.contrastive import contrastive
from everclip.types import NO_CLASSES, Batch, Draw, Session
from tests.methods.given import Features, GivenFeatures
from tests.methods.long_texts import GOLDEN, checkpoint, images, model_file, texts


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found: Tensor, expected: object, atol: float) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected).view_as(found), rtol=0, atol=atol)


def test_three_steps_follow_the_official_code(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("long_clip")
    backbone = OpenClip(model=model_file(folder, 77), weights=checkpoint(folder / "small.pt", seed=0), stretch=4)
    method = LongClip(backbone)
    table, model = method.positions[0], backbone.model
    method.begin_session(Session(0, "pairs", NO_CLASSES, NO_CLASSES, Features(torch.zeros(40, 1))), lambda *_: ())
    batch = Batch(images(), torch.full((40,), -1), torch.arange(40), texts=tuple(texts(40)))
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=1e-2)
    for step, expected in enumerate(GOLDEN["steps"]):
        optimizer.zero_grad()
        terms = method.loss(batch)
        assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-5)
        sum(terms.values(), torch.zeros(())).backward()
        method.before_step()
        if step == 0:
            gradients, norms = GOLDEN["gradient"], GOLDEN["gradient"]["norms"]
            assert table.grad is not None
            close(table.grad[[0, 19, 20, 100], :4], gradients["positions"], 1e-6)
            close(model.visual.proj.grad[0, :6], gradients["visual.proj"], 2e-6)
            close(model.logit_scale.grad, gradients["logit_scale"], 1e-5)
            found = {name: model.get_parameter(name).grad.norm().item() for name in norms}
            assert found == pytest.approx(norms, rel=1e-4)
        optimizer.step()
        method.after_step()
    close(table[[0, 19, 20, 100], :4], GOLDEN["after"], 1e-5)


@torch.no_grad()
def test_principal_components_keep_the_mean_and_their_rank() -> None:
    features = F.normalize(noise(40, 48), dim=-1)
    kept = reconstructed(features, 32)
    assert torch.linalg.matrix_rank(kept - kept.mean(dim=0), atol=1e-9) == 32
    torch.testing.assert_close(kept.mean(dim=0), features.mean(dim=0))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(reconstructed(features.float(), 32), kept.float())


@pytest.mark.parametrize("shape", [(7, 9), (9, 7), (4, 9)], ids=["wide", "tall", "few"])
def test_the_gradient_of_a_reconstruction_is_that_of_its_values(shape: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(lambda rows: reconstructed(rows, 3), noise(*shape).requires_grad_())


def test_few_pictures_lose_nothing_and_repeated_ones_have_gradients() -> None:
    rows, weights = noise(33, 48).requires_grad_(), noise(33, 48, seed=1)
    kept = reconstructed(rows, 32)
    torch.testing.assert_close(kept, rows)
    torch.testing.assert_close(torch.autograd.grad((kept * weights).sum(), rows)[0], weights)
    twice = torch.cat([noise(10, 48), noise(10, 48)]).requires_grad_()  # that of the singular vectors is not finite
    kept = reconstructed(twice, 5)
    (gradient,) = torch.autograd.grad((kept * noise(20, 48, seed=2)).sum(), twice)
    assert gradient.isfinite().all()


def test_without_short_texts_it_is_clips_loss() -> None:
    features = F.normalize(noise(4, 6), dim=-1), F.normalize(noise(4, 6, seed=1), dim=-1)
    method = LongClip.__new__(LongClip)
    torch.nn.Module.__init__(method)
    method.components, method.short_weight, method.label_smoothing = 32, 0.5, 0.0
    terms = method.terms(features[0], features[1], features[1], scale=torch.tensor(10.0))
    torch.testing.assert_close(terms["short"], terms["long"] / 2)  # of four pictures, components keep all


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_first_sentences_are_read_where_they_count_alone(tiny: Callable[[], OpenClip], weight: float) -> None:
    method, read = LongClip(tiny(), short_weight=weight, label_smoothing=0.0), list[int]()
    method.backbone.model.ln_final.register_forward_hook(lambda module, inputs, output: read.append(len(output)))
    method.classes = NO_CLASSES
    batch = Batch(noise(3, 3, 32, 32).float(), torch.full((3,), -1), torch.arange(3), texts=("a ring. Red.", "b", "c"))
    losses = method.loss(batch)
    assert read == ([3, 3] if weight else [3])
    (features, words) = method.encode_image(batch.images), method.encode_text(batch.texts or ())
    expected = contrastive(features, words, scale=method.backbone.logit_scale)
    torch.testing.assert_close(losses["long"], expected)
    assert set(losses) == ({"long", "short"} if weight else {"long"})


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a ring. It is blue.", "a ring"),
        ("a ring", "a ring"),
        ("a ring.\nIt is blue.", "a ring"),
        ("version 2.5 of a ring. Blue.", "version 2.5 of a ring"),
        (". a ring", ". a ring"),
    ],
)
def test_a_short_text_is_the_first_sentence(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_joined_captions_come_in_a_drawn_order() -> None:
    pictures = Features(torch.zeros(2, 1), np.zeros(2, dtype=np.int64))
    pairs = CaptionedImages(pictures, (("A.", "B.", "C."), ("D.",)))
    joined = JoinedCaptions(pairs).subset([1, 0])
    assert joined.read([0, 1], lambda picture: torch.zeros(1)).texts == ("D.", "A. B. C.")
    drawn = {joined.read([1], lambda picture: torch.zeros(1), Draw((0, epoch))).texts for epoch in range(40)}
    assert len(drawn) == 6


def test_a_backbone_without_text_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="no table of text positions matches"):
        LongClip(GivenFeatures(torch.zeros(2, 4)))
