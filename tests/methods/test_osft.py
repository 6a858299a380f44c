"""Steps stay out of the fixed directions; the factors follow peft's OSF layer.

tests/golden/osft_official.json was made by running that layer outside the project; its first key says how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everclip.backbones.insertion import TokenEdit
from everclip.backbones.open_clip import OpenClip
from everclip.methods.osft import Osft
from everclip.modules.lora import fold
from everclip.modules.subspaces import Place, Subspaces, split_weights, token_similarity
from everclip.types import Session
from tests.methods.test_cpe_clip import Tiny, make_batch, make_session, no_extract
from tests.methods.test_ncm import make_extract

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "osft_official.json").read_text())


def every_place(method: Osft) -> list[Place]:
    return [place for places in method.places.values() for place in places]


def weights(method: Osft) -> list[Tensor]:
    return [
        chunk.detach().clone()
        for place in every_place(method)
        for chunk in getattr(place.owner, place.name).chunk(len(place.weight.parts))
    ]


def features(method: Osft) -> Tensor:
    with torch.no_grad():
        return torch.cat([method.encode_image(make_batch([0, 1]).images), method.encode_text(["a star.", "a heart."])])


def train(method: Osft, session: Session, steps: int = 3, lr: float = 1e-3) -> None:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr, weight_decay=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        method.loss(make_batch(list(session.new.ids), seed=step))["cross_entropy"].backward()
        method.before_step()
        optimizer.step()
        method.after_step()


def leaks(method: Osft, before: list[Tensor]) -> tuple[float, float]:
    """The largest parts of the changes in fixed left and right directions, relative to the changes."""
    left, right = [], []
    for matrix, old, new in zip(method.matrices, before, weights(method), strict=True):
        change = new - old
        left.append(float((matrix.high_left.T @ change).norm() / change.norm()))
        right.append(float((change @ matrix.high_right.T).norm() / change.norm()))
    return max(left), max(right)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("project", ["gradient", "update"])
def test_ten_steps_follow_peft(optimizer: str, project: str) -> None:
    stream = np.random.RandomState(0)
    weight, inputs, target = (
        torch.tensor(stream.standard_normal(shape), dtype=torch.float32) for shape in ((24, 16), (32, 16), (32, 24))
    )
    matrix, expected = Subspaces(24, 16), GOLDEN[optimizer]
    matrix.split(weight / 4, 6)
    made: Any = (
        torch.optim.SGD(matrix.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        if optimizer == "sgd"
        else torch.optim.AdamW(matrix.parameters(), lr=1e-2, weight_decay=0.0)
    )
    losses = []
    for _ in range(10):
        made.zero_grad()
        loss = (inputs @ matrix().T - target).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        matrix.project_gradients()
        made.step()
        if project == "update":
            matrix.project_factors()
    change = matrix().detach() - weight / 4
    left, right = float((matrix.high_left.T @ change).norm()), float((change @ matrix.high_right.T).norm())
    if project == "gradient" or optimizer == "sgd":
        assert losses == pytest.approx(expected["losses"], abs=1e-5)
        np.testing.assert_allclose(change[:4], expected["update"], rtol=0, atol=1e-5)
        assert (left, right) == pytest.approx((expected["left"], expected["right"]), abs=1e-4)
    if project == "update" or optimizer == "sgd":
        assert max(left, right) < 1e-5 * float(change.norm())
    else:
        assert max(left, right) > 0.1


def test_the_gradient_of_a_singular_value_is_that_of_its_direction() -> None:
    stream = torch.Generator().manual_seed(0)
    matrix, factor = Subspaces(24, 16), torch.randn(24, 16, generator=stream)
    matrix.split(torch.randn(24, 16, generator=stream), 6)
    whole = matrix()
    whole.retain_grad()
    (factor * whole.square()).sum().backward()
    assert whole.grad is not None
    assert matrix.low_scale.grad is not None
    assert len(matrix.low_scale) == 10
    expected = (matrix.low_left.T @ whole.grad @ matrix.low_right.T).diagonal()
    torch.testing.assert_close(matrix.low_scale.grad, expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_split_changes_nothing(tiny: Tiny, share: float) -> None:
    method = Osft(tiny(), share=share)
    expected, before = features(method), weights(method)
    method.begin_session(make_session(0), no_extract)
    torch.testing.assert_close(features(method), expected, rtol=0, atol=1e-5)
    for old, new in zip(before, weights(method), strict=True):
        assert float((new - old).norm() / old.norm()) < 1e-5


def test_steps_stay_out_of_the_fixed_directions(tiny: Tiny) -> None:
    found = {}
    for project in ("gradient", "update"):
        method = Osft(tiny(), project=project)  # type: ignore[arg-type]  # a Literal
        method.begin_session(make_session(0), no_extract)
        before = weights(method)
        train(method, make_session(0), lr=1e-2)
        found[project] = leaks(method, before)
        for matrix in method.matrices:
            assert matrix.low_left.grad is not None
            assert float((matrix.high_left.T @ matrix.low_left.grad).norm() / matrix.low_left.grad.norm()) < 1e-4
    assert max(found["update"]) < 1e-4  # rounding of the weights against their changes
    assert min(found["gradient"]) > 0.05


def test_inputs_in_the_fixed_directions_keep_their_outputs(tiny: Tiny) -> None:
    method = Osft(tiny())
    method.begin_session(make_session(0), no_extract)
    before = weights(method)
    train(method, make_session(0), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for matrix, old, new in zip(method.matrices, before, weights(method), strict=True):
        fixed = matrix.high_right.T @ torch.randn(len(matrix.high_scale), generator=generator)
        free = matrix.low_right.detach()[0]
        torch.testing.assert_close(new @ fixed, old @ fixed, rtol=0, atol=1e-4)
        assert float((new @ free - old @ free).norm()) > 1e-3


def test_all_directions_fixed_leaves_the_weights(tiny: Tiny) -> None:
    method = Osft(tiny(), share=1.0)
    method.begin_session(make_session(0), no_extract)
    before = weights(method)
    train(method, make_session(0))
    assert method.num_trainable() == 0
    assert all(torch.equal(old, new) for old, new in zip(before, weights(method), strict=True))


def test_the_next_session_goes_on_from_the_trained_weights(tiny: Tiny) -> None:
    method = Osft(tiny(), policy="budget", num_sessions=4)
    for index, share in enumerate((0.0, 0.25)):
        expected = features(method)
        method.begin_session(make_session(index), no_extract)
        torch.testing.assert_close(features(method), expected, rtol=0, atol=1e-5)
        assert [len(m.high_scale) for m in method.matrices] == [round(share * m.size) for m in method.matrices]
        train(method, make_session(index))
        assert float((features(method) - expected).abs().max()) > 1e-3


def test_parameters_are_those_of_the_trained_factors(tiny: Tiny) -> None:
    method = Osft(tiny(), share=0.25, towers="vision")
    method.begin_session(make_session(0), no_extract)
    shapes = [(160, 160)] * 4 + [(640, 160), (160, 640)]
    assert method.num_trainable() == 4 * sum((m + n + 1) * (160 - 40) for m, n in shapes)


def test_split_weights_of_vit_b16() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    sizes = {
        tower: sum(getattr(place.owner, place.name).numel() for place in places)
        for tower, places in split_weights(backbone, "both").items()
    }
    assert sizes == {"vision": 84_934_656, "text": 37_748_736}


def test_folding_gives_the_original_architecture_back(tiny: Tiny) -> None:
    method, plain = Osft(tiny()), tiny()
    method.begin_session(make_session(0), no_extract)
    train(method, make_session(0), lr=1e-2)
    trained = features(method)
    fold(method.backbone)
    assert method.backbone.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(features(method), trained, rtol=0, atol=1e-6)


def test_similarity_of_inputs_and_outputs_by_hand(tiny: Tiny) -> None:
    method = Osft(tiny(), towers="vision")
    for place in method.places["vision"]:
        original: nn.Parameter = place.owner.parametrizations[place.name].original
        parts = original.data.chunk(len(place.weight.parts))
        for sign, part in zip((1, -1, 1), parts, strict=False):
            nn.init.eye_(part).mul_(sign)
    images = make_batch([0, 1, 2]).images
    with torch.no_grad():
        similar = token_similarity(method.backbone.encode_image, method.places["vision"])(images)
    torch.testing.assert_close(similar, torch.tensor([[1.0, -1, 1, 1, 1, 1] * 4]).expand(3, -1))
    assert not any(place.reader._forward_hooks for place in method.places["vision"])


def test_queries_are_compared_with_normalised_tokens(tiny: Tiny) -> None:
    method = Osft(tiny(), towers="vision")
    seen = {}

    class Capture(TokenEdit):
        def before(self, layer: int, tokens: Tensor) -> Tensor:
            seen[layer] = tokens
            return tokens

    images, block = make_batch([0, 1]).images, method.backbone.model.visual.transformer.resblocks[0]
    with torch.no_grad():
        similar = token_similarity(method.backbone.encode_image, method.places["vision"])(images)
        method.backbone.encode_image(images, Capture())
        tokens = block.ln_1(seen[0])
        queries = tokens @ block.attn.in_proj_weight[:160].T
    expected = (tokens * queries).sum(-1) / (tokens.norm(dim=-1) * queries.norm(dim=-1))
    torch.testing.assert_close(similar[:, 0], expected.mean(dim=1))


def test_important_weights_keep_more(tiny: Tiny) -> None:
    method = Osft(tiny(), policy="adaptive", min_share=0.1, max_share=0.3, importance_images=2)
    session = make_session(0)
    method.begin_session(session, make_extract(method))
    with torch.no_grad():
        tokens = method.backbone.tokenize(session.new.prompts("a photo of a {}."))
        shown = method.backbone.normalize(session.train.read([0], method.backbone.resize).images)
        found = [
            token_similarity(method.backbone.encode_image, method.places["vision"])(shown),
            token_similarity(method.backbone.encode_text, method.places["text"])(tokens),
        ]
    sizes = torch.cat([similar.mean(dim=0) for similar in found]).abs()
    shares = (0.1 + sizes / sizes.mean() * 0.2).clamp(0, 1)
    kept = [len(m.high_scale) for m in method.matrices]
    assert kept == [round(float(s) * m.size) for s, m in zip(shares, method.matrices, strict=True)]
    assert len(set(kept)) > 10
    before = method.importance
    train(method, session)
    method.end_session(session, make_extract(method))
    assert not torch.allclose(method.importance, before)
    assert float(method.importance.mean()) == pytest.approx(1)


def test_a_budget_needs_the_number_of_sessions(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="policy=budget needs num_sessions"):
        Osft(tiny(), policy="budget")


def test_an_edited_pass_sees_the_trained_weights(tiny: Tiny) -> None:
    method = Osft(tiny())
    images = make_batch([0, 1]).images
    method.begin_session(make_session(0), no_extract)
    train(method, make_session(0), lr=1e-2)
    with torch.no_grad():
        edited = method.backbone.encode_image(images, TokenEdit())
        torch.testing.assert_close(edited, method.encode_image(images), rtol=0, atol=1e-5)
