from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from everclip.backbones.open_clip import OpenClip
from everclip.modules.prompt_pool import (
    SessionParts,
    attended_similarity,
    majority,
    make_query,
    orthogonalised,
    prompted_width,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_query_is_the_class_token_without_prompts_and_without_gradient(tiny: Callable[[], OpenClip]) -> None:
    backbone, images = tiny(), random(2, 3, 32, 32)
    backbone.requires_grad_(True)
    query = make_query(backbone, images)
    assert not query.requires_grad
    with torch.no_grad():
        expected = backbone.model.encode_image(images)
    torch.testing.assert_close(query @ backbone.model.visual.proj, expected, rtol=0, atol=1e-5)


def test_weights_are_the_cosines_of_the_paper() -> None:
    query, attention, keys = random(2, 5), random(3, 4, 5, seed=1), random(3, 4, 5, seed=2)
    expected = np.empty((3, 2, 4))
    for g in range(3):
        for b in range(2):
            for k in range(4):
                one, other = (query[b] * attention[g, k]).double().numpy(), keys[g, k].double().numpy()
                expected[g, b, k] = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    ours = attended_similarity(query, attention, keys)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_new_rows_are_orthonormal_and_orthogonal_to_orthogonal_ones() -> None:
    torch.manual_seed(0)
    first = orthogonalised(torch.empty(0, 12), 4)
    both = torch.cat([3 * first, orthogonalised(3 * first, 4)])
    torch.testing.assert_close(both @ both.T, torch.diag(torch.tensor([9.0] * 4 + [1.0] * 4)), rtol=0, atol=1e-5)


def test_one_part_is_trained_and_all_that_began_are_seen() -> None:
    parts = SessionParts([torch.full((1, 2, 3), float(number)) for number in range(3)])
    parts.open(1)
    assert [part.requires_grad for part in parts.parts] == [False, True, False]
    assert parts.until(2)[0, :, 0].tolist() == [0, 0, 1, 1]
    parts.until(2).sum().backward()
    assert [part.grad is None for part in parts.parts] == [True, False, True]


def test_a_batch_takes_what_was_chosen_most_often_and_then_the_lower_number() -> None:
    chosen = torch.tensor([[4, 1], [4, 3], [3, 2], [4, 2]])
    assert majority(chosen, 6).tolist() == [[4, 2]]


def test_blocks_that_do_not_exist_are_refused(tiny: Callable[[], OpenClip]) -> None:
    assert prompted_width(tiny(), layers=(0, 3)) == 160
    with pytest.raises(
        ValueError, match=r"expert_layers=\[4, 1\]: prompts for block 4, but the image tower's are 0 to 3"
    ):
        prompted_width(tiny(), layers=(0,), expert_layers=(4, 1))
    with pytest.raises(ValueError, match="access to its image tokens"):
        prompted_width(OpenClip(model="MobileCLIP2-S0", weights="random", load=False))
