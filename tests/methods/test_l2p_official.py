"""Our L2P follows the official code's own numbers, and those of L2P++.

tests/golden/l2p_official.json was made by running both codes outside the project; `made_by` in it says how.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everclip.methods.l2p import L2p
from everclip.modules.prompt_pool import majority, make_query
from tests.methods import official_prompts as official
from tests.methods.test_cpe_clip import no_extract

GOLDEN = official.golden("l2p")


@pytest.mark.parametrize("choice", ["batch", "picture"])
def test_a_step_follows_the_official_code(choice: str, tmp_path: Path) -> None:
    backbone = official.make_backbone(tmp_path, gelu="tanh")
    method = L2p(backbone, pool=4, length=3, top_k=2, choice=choice, head="linear")  # type: ignore[arg-type]  # a Literal
    with torch.no_grad():
        method.prompts.copy_(official.values(800, 4, 3, 32, scale=0.5))
        method.keys.copy_(official.values(801, 4, 32))
    for index in range(2):
        method.begin_session(official.session(index), no_extract)
        official.fill_head(method.head, index)
    method.classes, batch, expected = official.session(0).new, official.batch(0), GOLDEN["input"][choice]
    cosines = method.cosines(make_query(method.backbone, batch.images))
    official.check_logits(cosines, expected["sim"])
    chosen = cosines.topk(2, dim=1).indices
    if choice == "batch":
        chosen = majority(chosen, 4).expand(6, -1)
    else:
        with torch.no_grad():
            official.check_logits(method.logits(batch.images, official.CLASSES), expected["logits"])
    assert chosen.tolist() == expected["chosen"]
    losses = method.loss(batch)
    official.check_loss(losses["cross_entropy"], expected["cross_entropy"])
    official.check_loss(losses["cross_entropy"] + losses["key"] - 2, expected["loss"])  # there minus the cosines
    (losses["cross_entropy"] + losses["key"]).backward()
    assert method.head is not None
    gradient = method.head.linear.rows.grad
    ours = {
        "prompts": method.prompts.grad,
        "keys": method.keys.grad,
        "head.weight": gradient[:, :-1],
        "head.bias": gradient[:, -1],
    }
    for name, value in expected["gradients"].items():
        official.check_values(ours[name], value, name)


def test_the_prefix_form_follows_l2p_plus_plus(tmp_path: Path) -> None:
    backbone = official.make_backbone(tmp_path)
    method = L2p(backbone, pool=6, length=4, top_k=5, form="prefix", choice="picture", key_weight=0, head="linear")
    with torch.no_grad():
        method.prompts.copy_(official.values(700, 6, 4, 32, scale=0.5))
        method.keys.copy_(official.values(701, 6, 32))
    for index, expected in enumerate(GOLDEN["prefix"]):
        session = official.session(index)
        method.begin_session(session, no_extract)
        official.fill_head(method.head, index)
        optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
        for step in expected["steps"]:
            loss = method.loss(official.batch(index))["cross_entropy"]
            official.check_loss(loss, step["loss"] - step["prompt_loss"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        official.check_values(method.prompts, expected["params"]["e_p_0"], "prompts")
        # The official keys have moved by a term that is not ours; see the module.
        with torch.no_grad():
            method.keys.copy_(torch.tensor(expected["keys"]))
            official.check_logits(method.logits(official.PIXELS, session.seen), expected["eval_logits"])
        pair = method.chosen(official.PIXELS).prefixes[0]  # type: ignore[attr-defined]  # of this form
        for ours, theirs in zip(pair, expected["prefixes"]["0"], strict=True):
            official.check_values(ours, theirs, "prefix of block 0")
