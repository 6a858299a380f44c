"""Our ZSCL, LwF and WiSE-FT follow the official code's losses and updates through four steps in each of two sessions.

tests/golden/zscl_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import Method
from everclip.methods.lwf import Lwf
from everclip.methods.wise_ft import WiseFt
from everclip.methods.zscl import Zscl
from everclip.types import Batch, ClassSet, Reference, Session
from tests.methods.test_cpe_clip import no_extract
from tests.methods.test_cpe_clip_official import GOLDEN as ARCHITECTURE
from tests.methods.test_cpe_clip_official import TensorImages, golden_weights

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "zscl_official.json").read_text())
PIXELS = torch.from_numpy(np.random.RandomState(1).standard_normal((32, 3, 32, 32)).astype(np.float32))
LABELS = np.concatenate([np.arange(12) % 3, 3 + np.arange(8) % 2, np.zeros(12, np.int64)])
FIRST, SECOND, SHOWN = range(12), range(12, 20), range(20, 32)
LEARNING_RATES = (0.5e-4, 1e-4, 1e-4, 0.0)  # of the official schedule: two steps of warm-up, then a cosine to step 3
REFERENCE = Reference(TensorImages(PIXELS[20:], LABELS[20:]), tuple(GOLDEN["captions"]))
METHODS: dict[str, Callable[[OpenClip], Method]] = {
    "zscl": lambda backbone: Zscl(backbone, reference=REFERENCE, average_every=2, max_cached_images=0),
    "lwf": Lwf,
    "wise_ft": WiseFt,
}


@pytest.fixture(scope="module")
def make_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], OpenClip]:
    path = tmp_path_factory.mktemp("models") / "everclip-golden.json"
    path.write_text(json.dumps(ARCHITECTURE["open_clip_config"]))
    open_clip.add_model_config(path)
    weights: dict[str, Tensor] = {}

    def make() -> OpenClip:
        made = OpenClip(model="everclip-golden", weights="random")
        if not weights:
            weights.update(golden_weights(made.model.state_dict()))
        made.model.load_state_dict(weights)
        return made

    return make


def make_session(index: int) -> Session:
    everything = ClassSet(tuple(range(5)), tuple(GOLDEN["classes"]))
    first, new = everything.select([0, 1, 2]), everything.select([3, 4])
    rows = list(SECOND if index else FIRST)
    train = TensorImages(PIXELS[rows], LABELS[rows])
    return Session(index, f"s{index}", new if index else first, everything if index else first, train)


def batch_of(rows: range, step: int) -> Batch:
    """Four pictures in the order of the data, over and over."""
    start = 4 * (step % (len(rows) // 4))
    chosen = list(rows[start : start + 4])
    return Batch(PIXELS[chosen], torch.from_numpy(LABELS[chosen]), torch.arange(4))


def train(method: Method, session: Session, beside: range) -> list[dict[str, float]]:
    """Four steps of the official schedule; the losses of each."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], weight_decay=0, fused=True)
    rows = FIRST if session.is_base else SECOND
    steps = []
    for step, lr in enumerate(LEARNING_RATES):
        batch = batch_of(rows, step)
        losses = method.loss(Batch(batch.images, batch.labels, batch.indices, batch_of(beside, step)))
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        method.after_step()
        steps.append({name: loss.item() for name, loss in losses.items()})
    return steps


def check_losses(steps: list[dict[str, float]], losses: dict[str, list[float]]) -> None:
    assert [sum(step.values()) for step in steps] == pytest.approx(losses["Loss"], rel=5e-4)
    for name, official in (("image_distillation", "Loss ZSCL"), ("weight_constraint", "Loss L2")):
        if losses[official]:
            assert [step[name] for step in steps] == pytest.approx(losses[official], rel=1e-3, abs=1e-4), name


def check_updates(before: dict[str, Tensor], after: dict[str, Tensor], expected: dict[str, Any]) -> None:
    for name, summary in expected.items():
        flat = (after[name] - before[name]).double().flatten()
        vector = torch.from_numpy(np.random.RandomState(3).standard_normal(len(flat)))
        assert float(flat.norm()) == pytest.approx(summary["norm"], rel=1e-3), name
        assert float(flat @ vector) == pytest.approx(summary["dot"], abs=5e-2 * summary["norm"]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_follows_the_official_code(name: str, make_backbone: Callable[[], OpenClip]) -> None:
    backbone = make_backbone()
    method = METHODS[name](backbone)
    for index, run in enumerate((name, f"{name}_second")):
        session, expected = make_session(index), GOLDEN["runs"][run]
        before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
        method.begin_session(session, no_extract)
        steps = train(method, session, SHOWN if name == "zscl" else (SECOND if index else FIRST))
        method.end_session(session, no_extract)
        check_losses(steps, expected["losses"])
        check_updates(before, backbone.model.state_dict(), expected["update"])
