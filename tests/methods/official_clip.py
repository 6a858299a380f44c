"""The small CLIP on which the official prompt learners were run, and what is compared with them.

tests/golden/prompt_learners_official.json was made with these weights and pictures, outside the project; `made_by` in
it says how. All in float64, so that nothing but the arithmetic can differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.methods.base import Method
from everclip.types import Batch, ClassSet, Samples, Session

CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 128, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3},
}
CLASSES = ClassSet(tuple(range(5)), ("apple", "aquarium fish", "red star", "sea lion", "bee"))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
RATE, MOMENTUM, DECAY, STEPS = 0.02, 0.9, 5e-4, 2  # of the compared updates


def values(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * np.random.RandomState(seed).standard_normal(shape))


PIXELS = values(1, 6, 3, 32, 32)


def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random weights for the state of an open_clip model, in the order of their names."""
    stream, filled = np.random.RandomState(0), {}
    for name in sorted(state):
        shape = tuple(state[name].shape)
        if name == "token_embedding.weight":  # fewer numbers, the same for every 97th token
            z = 0.5 * stream.standard_normal((97, shape[1]))[np.arange(shape[0]) % 97]
        else:
            z = stream.standard_normal(shape)
        if name == "logit_scale":
            z = np.full(shape, math.log(20))
        elif "ln_" in name and name.endswith(".weight"):
            z = 1 + 0.1 * z
        elif name.endswith("bias"):
            z = 0.02 * z
        elif name.endswith("embedding"):
            z = 0.1 * z
        elif name != "token_embedding.weight":
            z = z / math.sqrt(shape[0] if name in ("text_projection", "visual.proj") else math.prod(shape[1:]))
        filled[name] = torch.from_numpy(np.asarray(z, np.float64))
    return filled


def make_backbone(folder: Path) -> OpenClip:
    """The small model in float64."""
    path = folder / "everclip-prompt-learners.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    backbone = OpenClip(model=path.stem, weights="random").double()
    backbone.model.load_state_dict(weights(backbone.model.state_dict()))
    return backbone


@cache
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (Path(__file__).parents[1] / "golden" / "prompt_learners_official.json").read_text()
    )
    return content


def see(samples: Samples, encode: Any) -> tuple[Tensor, Tensor]:
    """An `Extract` over the six pictures."""
    with torch.no_grad():
        return encode(PIXELS), LABELS


def session() -> Session:
    empty = ArrayImages(np.zeros((6, 32, 32, 3), np.uint8), LABELS.numpy(), "empty")
    return Session(0, "base", CLASSES, CLASSES, empty)


def fill(*parameters: Tensor) -> None:
    """Gives parameters that begin at random the values of the golden run."""
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.copy_(values(100 + number, *parameter.shape, scale=0.1))


def close(ours: Tensor, official: Any, what: str) -> None:
    theirs = torch.tensor(official, dtype=torch.float64)
    torch.testing.assert_close(ours.detach().double(), theirs, rtol=1e-7, atol=1e-7, msg=lambda text: f"{what}: {text}")


def summary(value: Tensor) -> list[float]:
    """Norm, a product with fixed random numbers, and the first values."""
    flat = value.detach().double().flatten()
    vector = torch.from_numpy(np.random.RandomState(3).standard_normal(len(flat)))
    return [float(flat.norm()), float(flat @ vector), *flat[:4].tolist()]


def check_steps(method: Method, named: Mapping[str, Tensor | Callable[[], Tensor]], name: str) -> None:
    """Logits, losses of two steps of SGD, what they make of the parameters, and the logits after them."""
    expected = golden()[name]
    method.begin_session(session(), see)  # type: ignore[arg-type]  # no views here
    with torch.no_grad():
        close(method.logits(PIXELS, CLASSES), expected["logits"], "logits")
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    for losses in expected["losses"]:
        optimizer.zero_grad()
        ours = method.loss(Batch(PIXELS, LABELS, torch.arange(6)))
        assert {term: float(loss.detach()) for term, loss in ours.items()} == pytest.approx(losses, rel=1e-7)
        torch.stack(list(ours.values())).sum().backward()
        optimizer.step()
        method.after_step()
        method.after_epoch()
    method.end_session(session(), see)  # type: ignore[arg-type]
    for key, given in named.items():
        parameter = given if isinstance(given, Tensor) else given()
        assert summary(parameter) == pytest.approx(expected["parameters"][key], rel=1e-7, abs=1e-7), key
    with torch.no_grad():
        close(method.logits(PIXELS, CLASSES), expected["after"], "logits after the steps")
