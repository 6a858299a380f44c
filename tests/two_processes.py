"""Runs on two CPU processes, in turn: `python -m tests.two_processes FOLDER CACHE STRATEGY/METHOD|kind/KIND...`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.losses.distillation import image_text_distillation
from tests.conftest import run_in
from tests.test_kinds import run_kind

# 9 pictures per later session in batches of 4: the last batch has one picture, so one process has none. Of 15 test
# pictures one process has 8, the other 7: with 7 at a time, the second one's last batch is empty.
WORDS = (
    "sequence.way=3",
    "sequence.num_classes=9",
    "sequence.shots=3",
    "train.batch_size=4",
    "train.base.epochs=1",
    "data.eval_batch_size=7",
)
# On other kinds of samples: the last batch of a session and of a test is one process's alone, or shared unevenly.
ODD = ("method=finetune", "train.batch_size=5", "data.eval_batch_size=7")
DIVIDED = ("cpe_clip", "lora", "rail")


def text_gradient(shares: tuple[slice, ...]) -> Tensor:
    """Mean over the processes' shares of a batch of the gradient of a loss that compares its pictures.

    Called on one process with the whole batch, or on each of two with its share alone; the weight reaches the loss
    through the pictures as well as through the texts.
    """
    draw = torch.Generator().manual_seed(0)
    pictures, texts, teacher = (torch.randn(size, 4, generator=draw, dtype=torch.float64) for size in (5, 3, 5))
    weight = torch.eye(4, dtype=torch.float64).requires_grad_()
    own = shares[torch.distributed.get_rank() if torch.distributed.is_initialized() else 0]
    indices = torch.arange(5)[own]
    losses = image_text_distillation(
        pictures[own] @ weight,
        teacher[own],
        texts @ weight,
        scale=torch.tensor(1.0),
        indices=indices,
        temperature=2.0,
        image_weight=1.0,
        text_weight=1.0,
    )
    torch.stack(list(losses.values())).sum().backward()
    assert weight.grad is not None
    return weight.grad


def sizes() -> dict[str, int]:
    """Values of the blocks of a divided backbone: all, and those that this process keeps."""
    backbone = OpenClip(model="everclip-tiny", weights="embedded")
    backbone.shard_blocks(init_device_mesh("cpu", (2,)))
    divided = [p for p in backbone.parameters() if isinstance(p, DTensor)]
    return {"all": sum(p.numel() for p in divided), "own": sum(p.to_local().numel() for p in divided)}


def refusal(folder: Path, cache: Path, name: str) -> str:
    """Why the weights of a method are not divided."""
    with pytest.raises(ConfigError) as error:
        run_in(folder, cache, *WORDS, f"method={name}", "trainer=fsdp", "trainer.accelerator=cpu")
    return str(error.value)


if __name__ == "__main__":
    folder, cache = Path(sys.argv[1]), Path(sys.argv[2])
    for place in sys.argv[3:]:
        strategy, name = place.split("/")
        if strategy == "kind":
            two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.accumulate=2")
            run_kind(folder / place, cache, name, *ODD, *two)
            continue
        run_in(folder / place, cache, *WORDS, f"method={name}", f"trainer={strategy}", "trainer.accelerator=cpu")
    (folder / "refusal.txt").write_text(refusal(folder / "fsdp" / "osft", cache, "osft"))
    torch.save(sizes(), folder / f"sizes_{torch.distributed.get_rank()}.pt")
    # One picture is on both processes: it counts once.
    gradient = text_gradient((slice(0, 4), slice(3, 5)))
    torch.distributed.all_reduce(gradient)
    torch.save(gradient / 2, folder / "gradient.pt")
