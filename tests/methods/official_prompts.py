"""Weights and pictures on which the official prompt methods were run, and our backbone with them.

The golden files of `coda_prompt`, `dualprompt` and `l2p` were made with these, outside the project.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.modules.image_head import ImageHead
from everclip.types import Batch, ClassSet, Session
from tests.methods.test_cpe_clip_official import check_summary

WIDTH = 32
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 6, "width": 32, "head_width": 16, "patch_size": 8, "no_ln_pre": True},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
CLASSES = ClassSet(tuple(range(5)), ("apple", "bear", "cat", "dog", "egg"))
ROWS = (slice(0, 6), slice(6, 12))  # pictures of the two sessions
LABELS = ([0, 1, 2, 0, 1, 2], [3, 4, 3, 4, 3, 4])


def golden(name: str) -> Any:
    return json.loads((Path(__file__).parents[1] / "golden" / f"{name}_official.json").read_text())


def values(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy((scale * np.random.RandomState(seed).standard_normal(shape)).astype(np.float32))


PIXELS = values(1, 18, 3, 32, 32)


def fill(visual: nn.Module) -> None:
    stream = np.random.RandomState(0)
    state = visual.state_dict()
    del state["proj"]
    for name in sorted(state):
        z = stream.standard_normal(tuple(state[name].shape)).astype(np.float32)
        if "ln_" in name and name.endswith("weight"):
            z = 1 + 0.1 * z
        elif name.endswith("bias"):
            z = 0.02 * z
        elif "embedding" in name:
            z = 0.3 * z
        else:
            z = z / math.sqrt(math.prod(z.shape[1:]))
        state[name] = torch.from_numpy(z.astype(np.float32))
    visual.load_state_dict(state, strict=False)
    for module in visual.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # of both official towers


def make_backbone(folder: Path, gelu: str = "none") -> OpenClip:
    """The small tower, with the approximation of GELU that the official one has: `none` in torch, `tanh` in JAX."""
    path = folder / "everclip-prompts.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    backbone = OpenClip(model="everclip-prompts", weights="random")
    fill(backbone.model.visual)
    for block in backbone.model.visual.transformer.resblocks:
        block.mlp.gelu = nn.GELU(approximate=gelu)
    return backbone


def session(index: int) -> Session:
    new = CLASSES.select([0, 1, 2] if index == 0 else [3, 4])
    seen = new if index == 0 else CLASSES
    empty = ArrayImages(np.zeros((1, 32, 32, 3), np.uint8), np.array([new.ids[0]]), "empty")
    return Session(index, f"s{index}", new, seen, empty)


def batch(index: int) -> Batch:
    labels = torch.tensor(LABELS[index])
    return Batch(PIXELS[ROWS[index]], labels, torch.arange(len(labels)))


def fill_head(head: ImageHead, index: int) -> None:
    """Gives the rows that a session has added the official layer's weights and biases."""
    assert head.linear is not None
    rows = torch.cat([values(2, 5, WIDTH, scale=0.2), values(3, 5, scale=0.1)[:, None]], dim=1)
    new = slice(0, 3) if index == 0 else slice(3, 5)
    with torch.no_grad():
        head.linear.rows[new] = rows[new]


def check_logits(ours: Tensor, official: list[list[float]]) -> None:
    torch.testing.assert_close(ours.detach(), torch.tensor(official), rtol=0, atol=2e-5)


def check_loss(ours: Tensor, official: float) -> None:
    assert float(ours.detach()) == pytest.approx(official, rel=1e-4)


def check_values(ours: Tensor, official: dict[str, Any], what: str) -> None:
    check_summary(ours.detach(), official, what)
