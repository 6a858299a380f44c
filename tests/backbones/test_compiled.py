"""`trainer.compile`: the same numbers, and a way back where nothing can be compiled."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from everclip.backbones import compiled
from everclip.backbones.open_clip import OpenClip
from everclip.methods.cpe_clip import CpeClip
from everclip.types import ClassSet

CLASSES = ClassSet((0, 1, 2), ("red square", "circle", "a very small blue triangle"))


def logits_and_gradient(backbone: OpenClip) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    method = CpeClip(backbone)
    images = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    logits = method.logits(images, CLASSES)
    logits.logsumexp(dim=1).sum().backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


def broken(graph: Any, examples: Any) -> Any:
    raise RuntimeError("no compiler")


@pytest.mark.filterwarnings("default")  # torch's compiler warns about its own code
@pytest.mark.parametrize("backend", ["aot_eager", broken], ids=["works", "broken"])
def test_compiled_blocks_compute_the_same(
    backend: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = OpenClip(model="everclip-tiny", weights="embedded")
    expected = logits_and_gradient(backbone)
    torch._dynamo.reset()
    monkeypatch.setattr(compiled.torch, "compile", partial(torch.compile, backend=backend))
    backbone.compile_blocks()
    with caplog.at_level(logging.WARNING, logger="everclip"):
        found = logits_and_gradient(backbone)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    warned = [record.message for record in caplog.records if "trainer.compile=true" in record.message]
    assert len(warned) == (1 if backend is broken else 0)
    assert all("no compiler" in message for message in warned)
