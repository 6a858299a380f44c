"""Our DualPrompt follows two official codes' own numbers.

tests/golden/dualprompt_official.json was made by running them outside the project; `made_by` in it says how.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from everclip.methods.dualprompt import DualPrompt
from everclip.modules.prompt_pool import make_query
from tests.methods import official_prompts as official
from tests.methods.test_cpe_clip import no_extract

GOLDEN = official.golden("dualprompt")


def make(tmp_path: Path, general: Tensor, experts: Tensor, gelu: str = "none", key_weight: float = 1.0) -> DualPrompt:
    """A method with general prefixes (2, 2, 3, D), experts (3, 2, 2, 2, D) by block and session, the golden keys."""
    backbone = official.make_backbone(tmp_path, gelu)
    method = DualPrompt(
        backbone, num_sessions=2, general_length=3, expert_length=2, key_weight=key_weight, head="linear"
    )
    with torch.no_grad():
        method.general.copy_(general)
        for index in range(2):
            method.experts.parts[index].copy_(experts[:, index : index + 1])
            method.keys.parts[index].copy_(official.values(600, 2, 32)[index])
    return method


def test_two_sessions_follow_the_torch_code(tmp_path: Path) -> None:
    # There each of the three blocks has a key; all began equal, and their term is summed over blocks and pictures.
    general = torch.stack([official.values(400 + layer, 6, 32, scale=0.5).view(2, 3, 32) for layer in (0, 1)])
    experts = torch.stack([official.values(500 + layer, 2, 4, 32, scale=0.5).view(2, 2, 2, 32) for layer in (2, 3, 4)])
    method = make(tmp_path, general, experts, key_weight=3 * 6)
    for index, expected in enumerate(GOLDEN["torch"]["sessions"]):
        session = official.session(index)
        method.begin_session(session, no_extract)
        official.fill_head(method.head, index)
        optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
        for step in expected["steps"]:
            losses = method.loss(official.batch(index))
            official.check_loss(losses["key"], step["prompt_loss"])
            official.check_loss(losses["cross_entropy"] + losses["key"], step["loss"])
            optimizer.zero_grad()
            (losses["cross_entropy"] + losses["key"]).backward()
            optimizer.step()
        for layer in (0, 1):
            official.check_values(method.general[layer], expected["params"][f"g_p_{layer}"], f"general, block {layer}")
        for layer in (2, 3, 4):
            ours = method.experts.until(2)[layer - 2]
            official.check_values(ours, expected["params"][f"e_p_{layer}"], f"experts, block {layer}")
            official.check_values(method.keys.until(2), expected["params"][f"e_k_{layer}"], "keys")
    # Only now may a picture choose any key in both codes.
    with torch.no_grad():
        official.check_logits(method.logits(official.PIXELS, session.seen), expected["eval_logits"])
        prefixes = method.chosen(official.PIXELS).prefixes
        official.check_values(make_query(method.backbone, official.PIXELS), expected["query"], "query")
    for layer, pair in prefixes.items():
        for ours, theirs in zip(pair, expected["prefixes"][str(layer)], strict=True):
            official.check_values(ours.expand(18, -1, -1), theirs, f"prefix of block {layer}")


def test_a_step_of_the_second_session_follows_the_jax_code(tmp_path: Path) -> None:
    general = torch.stack([official.values(400 + layer, 2, 3, 32, scale=0.5) for layer in (0, 1)])
    # The official tensor has keys and values before the prompts of the pool.
    experts = torch.stack([official.values(500 + layer, 2, 2, 2, 32, scale=0.5) for layer in (2, 3, 4)])
    method = make(tmp_path, general, experts, gelu="tanh")
    for index in range(2):
        method.begin_session(official.session(index), no_extract)
        official.fill_head(method.head, index)
    expected, batch = GOLDEN["jax"]["training"], official.batch(1)
    losses = method.loss(batch)
    official.check_loss(losses["cross_entropy"], expected["cross_entropy"])
    official.check_loss(losses["cross_entropy"] + losses["key"] - 1, expected["loss"])  # there minus the cosine
    (losses["cross_entropy"] + losses["key"]).backward()
    assert method.head is not None
    ours = {
        "general": method.general.grad,
        "expert": method.experts.parts[1].grad,
        "key": method.keys.parts[1].grad,
        "head.weight": method.head.linear.rows.grad[:, :-1],
    }
    for name, gradient in expected["gradients"].items():
        official.check_values(ours[name], gradient, name)
    expected = GOLDEN["jax"]["evaluation"]
    with torch.no_grad():
        official.check_logits(method.logits(batch.images, official.CLASSES), expected["logits"])
