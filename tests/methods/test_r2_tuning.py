"""Forward, losses, gradients and an update are the official code's; moments are found as it finds them.

tests/golden/r2_tuning_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbones.base import Tower
from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.losses.grounding import aligned, focal, saliency_contrast
from everclip.methods.r2_tuning import R2Tuning
from everclip.modules.moment_points import MomentHeads, per_frame, points, spans, targets
from everclip.modules.moments import best
from everclip.modules.recurrent_side import RecurrentSide
from everclip.objectives.grounding import JUDGED, MOMENTS, Grounding
from everclip.types import Batch, ClassSet, Session
from tests.methods.given import Features
from tests.methods.test_cpe_clip import no_extract

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "r2_tuning_official.json").read_text())
LENGTH, STRIDES = 12, (1, 2, 4, 8)
KNOWN = torch.ones(3, 6, dtype=torch.bool)
CLASSES = ClassSet((3, 8), ("dog", "red star"))


class Network(torch.nn.Module):
    """Both parts of the method, with the recipe's weights."""

    def __init__(self) -> None:
        super().__init__()
        settings = {"width": 16, "num_layers": 3, "heads": 2, "dropout": 0.0, "drop_path": 0.0}
        self.side = RecurrentSide(Tower(12, 3, 1), Tower(10, 3, 1), **settings)  # type: ignore[arg-type]
        self.heads = MomentHeads(16, STRIDES)
        self.double()
        stream = np.random.RandomState(0)
        with torch.no_grad():
            for name, parameter in sorted(self.named_parameters()):
                one = "norm" in name or "_map.0" in name or "_map.4" in name
                one = (one and name.endswith("weight")) or name == "heads.factors"
                parameter.copy_(torch.from_numpy(0.2 * stream.standard_normal(tuple(parameter.shape)) + one))
        shapes = ((3, 3, LENGTH, 5, 12), (3, 3, 6, 10))
        self.video, self.query = (torch.from_numpy(stream.standard_normal(shape)) for shape in shapes)
        saliency = torch.from_numpy(np.round(np.abs(stream.standard_normal((3, LENGTH))), 1))
        saliency[:, ::3], saliency[0, 1] = 0, 4
        self.saliency = saliency

    def read(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        frames = [self.side.read_frames(layer) for layer in self.video]
        words = [self.side.read_words(layer) for layer in self.query]
        return frames, words, self.side(frames, words, KNOWN)

    def losses(self) -> dict[str, Tensor]:
        frames, words, hidden = self.read()
        scores, distances = self.heads(hidden)
        right, ends = targets(points(hidden, STRIDES), MOMENTS_OF, LENGTH)
        chosen, rows = torch.tensor([1, 4, 7]), torch.arange(3)
        own = torch.stack([layer[rows, chosen, 0] for layer in frames])
        texts = torch.stack([self.side.pooled_text(layer, KNOWN) for layer in words])
        return {
            "score": focal(scores, right),
            "distance": 0.2 * (distances - ends).abs()[right].mean(),
            "saliency": 0.1 * saliency_contrast(hidden, texts[0], self.saliency, chosen),
            "video": 0.1 * aligned(own, texts),
            "layer": 0.1 * aligned(own.transpose(0, 1), texts.transpose(0, 1)),
        }


MOMENTS_OF = torch.tensor([[[1, 4.5], [6, 12]], [[3.2, 3.6], [-12, -12]], [[0, 9], [8, 11]]], dtype=torch.float64) / 12


def test_a_step_is_the_official_codes() -> None:
    network = Network()
    _, _, hidden = network.read()
    scores, distances = network.heads(hidden)
    for obtained, key in ((hidden.sum(dim=-1), "hidden"), (scores, "scores"), (distances, "distances")):
        np.testing.assert_allclose(obtained.detach(), GOLDEN[key], rtol=0, atol=1e-9)
    losses = network.losses()
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(GOLDEN["losses"], abs=1e-9)
    sum(losses.values(), torch.zeros(())).backward()
    norms = {name: float(p.grad.norm()) for name, p in network.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(GOLDEN["gradient_norms"], abs=1e-9)
    torch.nn.utils.clip_grad_norm_(network.parameters(), 35.0)
    torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=1e-4).step()
    after = {name: value.item() for name, value in network.losses().items()}
    assert after == pytest.approx(GOLDEN["after"], abs=1e-7)


def test_the_network_has_as_many_values_as_the_official_one() -> None:
    settings = {"width": 256, "num_layers": 4, "heads": 8, "dropout": 0.5, "drop_path": 0.1}
    parts = RecurrentSide(Tower(768, 12, 12), Tower(512, 12, 8), **settings), MomentHeads(256, STRIDES)  # type: ignore[arg-type]
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert count + 256 == 2_836_242  # the code's, with a bias that changes nothing


def test_moments_and_saliency_are_the_official_codes() -> None:
    network = Network()
    with torch.no_grad():
        _, words, hidden = network.read()
        scores, distances = network.heads(hidden)
        near = torch.cosine_similarity(hidden, network.side.pooled_text(words[0], KNOWN)[:, None], dim=-1)
    at, scores = points(hidden, STRIDES), scores.sigmoid()
    np.testing.assert_allclose((per_frame(at, scores, LENGTH) * near)[0], GOLDEN["saliency"], rtol=0, atol=1e-9)
    found = best(spans(at, distances, LENGTH, whole_frames=True), scores, 5)[0] * LENGTH
    np.testing.assert_allclose(found, np.array(GOLDEN["found"])[:, :2], rtol=0, atol=1e-9)


def test_perfect_distances_give_the_moments_back() -> None:
    moments = torch.tensor([[[0.25, 0.5], [0.55, 0.95]], [[0.0, 1.0], [-1, -1]]], dtype=torch.float64)
    at = points(torch.zeros(2, 40, 1, dtype=torch.float64), STRIDES)
    assert at.counts == (40, 20, 10, 5)
    right, distances = targets(at, moments, 40)
    found = spans(at, distances, 40, whole_frames=False)
    for clip in range(2):
        wanted = {tuple(moment) for moment in moments[clip].tolist() if moment[0] >= 0}
        given = {tuple(round(end, 9) for end in span) for span in found[clip][right[clip]].tolist()}
        assert given == wanted
    farther = (distances.amax(dim=-1) * at.strides)[right]
    least, most = (bound.expand(2, -1)[right] for bound in (at.nearest, at.farthest))
    assert ((least <= farther) & (farther <= most)).all()
    assert not targets(at, torch.full((1, 2, 2), -1.0), 40)[0].any()


def test_a_short_clip_has_fewer_strides() -> None:
    heads, hidden = MomentHeads(4, STRIDES), torch.randn(2, 3, 4)
    assert points(hidden, STRIDES).counts == (3, 1)
    assert [part.shape[1] for part in heads(hidden)] == [4, 4]
    assert per_frame(points(hidden, STRIDES), torch.tensor([[1.0, 2, 3, 2.5]]), 3).tolist() == [[2.5, 2.5, 3]]


def test_a_time_at_which_no_frame_counts_spoils_no_gradient() -> None:
    frames, texts = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 4)
    saliency = torch.tensor([[0.1, 1.0, 0.0], [0.1, 0.9, 0.0]])
    saliency_contrast(frames, texts, saliency, torch.tensor([0, 0])).backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()


def method(backbone: OpenClip, **settings: Any) -> R2Tuning:
    torch.manual_seed(0)
    small = {"num_layers": 2, "width": 8, "heads": 2, "dropout": 0.0, "drop_path": 0.0}
    made = R2Tuning(backbone, **(small | settings))
    with torch.no_grad():
        made.side.scale += 1  # as training may leave it: patches are read
    return made


def clips(count: int) -> Tensor:
    return torch.randn(count, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def grounded() -> Batch:
    """Two clips with a moment each."""
    moments = torch.tensor([[[0.25, 0.75]], [[0.5, 1.0]]])
    judged = 4 * ((torch.arange(8) >= 4) & torch.tensor([[True], [True]])).long()[..., None]
    texts = ("a red star moving left", "a dog")
    return Batch(
        clips(2), torch.tensor([-1, -1]), torch.arange(2), texts=texts, targets={MOMENTS: moments, JUDGED: judged}
    )


def test_words_behind_a_texts_end_and_other_clips_do_not_count(tiny: Callable[[], OpenClip]) -> None:
    own, batch = method(tiny()).eval(), grounded()
    with torch.no_grad():
        whole = own.moments(batch.images, batch.texts or ())
        alone = own.moments(batch.images[1:], ["a dog"])  # shorter than with the other text beside it
    torch.testing.assert_close(whole.saliency[1:], alone.saliency)
    torch.testing.assert_close(whole.spans[1:], alone.spans)


def test_frames_in_another_order_are_another_clip(tiny: Callable[[], OpenClip]) -> None:
    own, images = method(tiny()).eval(), clips(2)
    with torch.no_grad():
        forth, back = (own.logits(one, CLASSES) for one in (images, images.flip(1)))
    assert (forth - back).abs().max() > 1e-2


def test_heads_rest_where_there_are_labels(tiny: Callable[[], OpenClip]) -> None:
    own = method(tiny())
    labelled = Session(0, "s", CLASSES, CLASSES, Features(torch.zeros(2, 1), np.array([3, 8])))
    counts = []
    for session in (labelled, replace(labelled, objective=Grounding())):
        own.begin_session(session, no_extract)
        counts.append(own.num_trainable())
    assert counts[1] - counts[0] == sum(p.numel() for p in own.heads.parameters())
    losses = own.loss(grounded())
    assert losses.keys() == {"score", "distance", "saliency", "video", "layer"}
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is not None for p in own.heads.pyramid[3].parameters())
    assert own.loss(Batch(clips(2), torch.tensor([3, 8]), torch.arange(2))).keys() == {"cross_entropy"}


def test_pieces_change_nothing(tiny: Callable[[], OpenClip]) -> None:
    own, found = method(tiny()), []
    for pieces in (1, 2):
        own.backbone.pieces = pieces
        own.zero_grad()
        torch.manual_seed(0)  # of the frames that contrasts are about
        losses = own.loss(grounded())
        sum(losses.values(), torch.zeros(())).backward()
        found.append([*losses.values(), *(p.grad for p in own.parameters() if p.grad is not None)])
    for whole, divided in zip(*found, strict=True):
        torch.testing.assert_close(divided, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 5}, "num_layers=5"),
        ({"heads": 3}, "heads=3"),
        ({"strides": (1, 3)}, r"strides=\[1, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(tiny: Callable[[], OpenClip], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(tiny(), **settings)
