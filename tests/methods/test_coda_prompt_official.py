"""Our CODA-Prompt follows the official code's own numbers for two sessions of two steps each.

tests/golden/coda_prompt_official.json was made by running that code outside the project; its first key says how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everclip.methods.coda_prompt import CodaPrompt
from everclip.modules.prompt_pool import make_query, orthogonalised
from tests.methods import official_prompts as official
from tests.methods.test_cpe_clip import no_extract

GOLDEN = official.golden("coda_prompt")
# The official names of prompts, keys and attention vectors, their seed and shape.
KINDS = {"prompts": ("p", 100, (6, 4, 32)), "keys": ("k", 200, (6, 32)), "attention": ("a", 300, (6, 32))}


def fill_components(method: CodaPrompt, index: int) -> None:
    """The official run's components of a session, in place of the random ones."""
    for name, (_, seed, shape) in KINDS.items():
        parts = [official.values(seed + layer, *shape, scale=0.5)[3 * index : 3 * index + 3] for layer in range(5)]
        with torch.no_grad():
            getattr(method, name).parts[index].copy_(torch.stack(parts))


def check_session(method: CodaPrompt, expected: dict[str, Any]) -> None:
    with torch.no_grad():
        query = make_query(method.backbone, official.PIXELS)
        prefixes = method.chosen(official.PIXELS).prefixes
    official.check_values(query, expected["query"], "query")
    assert [str(layer) for layer in prefixes] == list(expected["prefixes"])
    for layer, pair in prefixes.items():
        for ours, theirs in zip(pair, expected["prefixes"][str(layer)], strict=True):
            official.check_values(ours, theirs, f"prefix of block {layer}")
    for name, (letter, *_) in KINDS.items():
        for layer, ours in enumerate(getattr(method, name).until(2)):
            # The official run's later components are random before their session; ours begin at zero.
            if int(method.opened) == 2:
                official.check_values(ours, expected["params"][f"e_{letter}_{layer}"], f"{name} of block {layer}")


@pytest.mark.parametrize("weight", ["0.0", "0.1"])
def test_two_sessions_follow_the_official_code(weight: str, tmp_path: Path) -> None:
    backbone = official.make_backbone(tmp_path)
    method = CodaPrompt(backbone, num_sessions=2, pool=6, length=4, ortho_weight=float(weight), head="linear")
    for index, expected in enumerate(GOLDEN["sessions"][weight]):
        session = official.session(index)
        method.begin_session(session, no_extract)
        fill_components(method, index)
        official.fill_head(method.head, index)
        optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
        for step in expected["steps"]:
            losses = method.loss(official.batch(index))
            official.check_logits(method.logits(official.batch(index).images, session.new), step["logits"])
            official.check_loss(torch.stack(list(losses.values())).sum(), step["loss"])
            if "orthogonality" in losses:
                official.check_loss(losses["orthogonality"], step["prompt_loss"])
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
        with torch.no_grad():
            official.check_logits(method.logits(official.PIXELS, session.seen), expected["eval_logits"])
        check_session(method, expected)


@pytest.mark.parametrize(("key", "seed", "earlier"), [("gram_schmidt", 5, 3), ("gram_schmidt_first", 6, 0)])
def test_new_rows_are_orthogonalised_as_officially(key: str, seed: int, earlier: int) -> None:
    expected = torch.tensor(GOLDEN[key])
    rows: Tensor = official.values(7, 6, 32, scale=0.5)[:earlier] if earlier else torch.empty(0, expected.shape[1])
    torch.manual_seed(seed)
    torch.testing.assert_close(orthogonalised(rows, 3), expected, rtol=0, atol=1e-5)
