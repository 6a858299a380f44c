"""`trainer.gradient_checkpointing`: the same gradients from less that is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.adapter import Adapter
from everclip.methods.base import Method
from everclip.methods.cpe_clip import CpeClip
from everclip.methods.lora import Lora
from everclip.types import ClassSet

CLASSES = ClassSet((0, 1, 2), ("red square", "circle", "a very small blue triangle"))


def gradients_and_bytes(make: Callable[[OpenClip], Method], *, checkpointed: bool) -> tuple[dict[str, Tensor], int]:
    """The gradients of all that is trained, and how much was kept for the backward pass."""
    torch.manual_seed(0)
    backbone = OpenClip(model="everclip-tiny", weights="embedded")
    if checkpointed:
        backbone.checkpoint_blocks()
    method, kept = make(backbone), dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(8, 3, backbone.image_size, backbone.image_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = method.train().logits(images, CLASSES).logsumexp(dim=1).sum()
    loss.backward()
    return {n: p.grad for n, p in method.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.mark.parametrize(
    "make", [CpeClip, partial(Lora, rank=2), partial(Adapter, reduction=16)], ids=["prompts", "weights", "blocks"]
)
def test_gradients_are_the_same_from_less(make: Callable[[OpenClip], Method]) -> None:
    expected, whole = gradients_and_bytes(make, checkpointed=False)
    found, kept = gradients_and_bytes(make, checkpointed=True)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
    assert kept < whole / 2
