"""Our CoDyRA follows the official code's losses, importances, logits and merged weights through two sessions.

tests/golden/codyra_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.codyra import Codyra
from everclip.modules.lora import fold
from everclip.types import Batch
from tests.methods.test_cpe_clip import no_extract
from tests.methods.test_cpe_clip_official import GOLDEN as ARCHITECTURE
from tests.methods.test_cpe_clip_official import golden_weights, make_sessions

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "codyra_official.json").read_text())
STEPS, LR = 7, 3e-4
WEIGHTS = {  # name in the file: state entry and the third of its rows
    "visual.0.q": ("visual.transformer.resblocks.0.attn.in_proj_weight", 0),
    "visual.1.out": ("visual.transformer.resblocks.1.attn.out_proj.weight", None),
    "visual.2.proj": ("visual.transformer.resblocks.2.mlp.c_proj.weight", None),
    "text.0.v": ("transformer.resblocks.0.attn.in_proj_weight", 2),
    "text.1.fc": ("transformer.resblocks.1.mlp.c_fc.weight", None),
}


@pytest.fixture
def backbone(tmp_path: Path) -> OpenClip:
    path = tmp_path / "everclip-golden.json"
    path.write_text(json.dumps(ARCHITECTURE["open_clip_config"]))
    open_clip.add_model_config(path)
    made = OpenClip(model="everclip-golden", weights="random")
    made.model.load_state_dict(golden_weights(made.model.state_dict()))
    return made


@torch.no_grad()
def draw(method: Codyra, stream: np.random.RandomState) -> None:
    """The official run's random factors and importances, module after module."""
    for update in method.updates:
        assert update.gate is not None
        for down, gate in zip(update.down, update.gate, strict=True):
            down.copy_(torch.from_numpy(stream.uniform(-1, 1, down.shape) / math.sqrt(down.shape[1])))
            gate.copy_(torch.from_numpy(stream.standard_normal(gate.shape)))


def train(method: Codyra, batches: Callable[[int], Batch]) -> dict[str, list[float]]:
    """The official schedule; the losses of each step."""
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0, betas=(0.9, 0.9999))
    found: dict[str, list[float]] = {"image_to_text": [], "text_to_image": []}
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.zero_grad()
        losses = method.loss(batches(step))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        method.after_step()
        for name, loss in losses.items():
            found[name].append(loss.item())
    return found


def summary(values: Tensor) -> tuple[float, float]:
    flat = values.double().flatten()
    return float(flat.norm()), float(flat @ torch.from_numpy(np.random.RandomState(3).standard_normal(len(flat))))


@pytest.mark.slow
def test_it_follows_the_official_code(backbone: OpenClip) -> None:
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    method = Codyra(backbone, rank=4, iterations=STEPS, kappa_max=0.3, kappa_steps=3)
    *sessions, test = make_sessions()
    stream = np.random.RandomState(5)
    for session, expected in zip(sessions, GOLDEN["sessions"], strict=True):
        method.begin_session(session, no_extract)
        draw(method, stream)

        def batch_at(step: int) -> Batch:
            rows = [4 * (step % (len(session.train) // 4)) + i for i in range(4)]  # noqa: B023 (used in this pass)
            images = session.train.read(rows, backbone.resize).images  # noqa: B023
            return Batch(images, torch.from_numpy(session.train.labels[rows]), torch.tensor(rows))  # noqa: B023

        losses = train(method, batch_at)
        for name, values in losses.items():
            assert values == pytest.approx(expected[name], rel=1e-4), name
        gates = [gate.flatten() for update in method.updates if update.gate is not None for gate in update.gate]
        assert [int((gate != 0).sum()) for gate in gates] == expected["active"]
        norm, dot = summary(torch.cat(gates).detach())
        assert (norm, dot) == pytest.approx((expected["gates"]["norm"], expected["gates"]["dot"]), rel=1e-5)
        with torch.no_grad():
            logits = method.logits(test.pixels, session.seen)
        torch.testing.assert_close(logits, torch.tensor(expected["logits"]), rtol=0, atol=5e-4)
    fold(backbone)
    after = backbone.model.state_dict()
    for name, expected in GOLDEN["updates"].items():
        entry, third = WEIGHTS[name]
        change = after[entry] - before[entry]
        norm, dot = summary(change if third is None else change.chunk(3)[third])
        assert norm == pytest.approx(expected["norm"], rel=1e-3), name
        assert dot == pytest.approx(expected["dot"], abs=2e-2 * norm), name
