"""Runs methods in turn, each on two CPU processes: `python -m tests.two_processes FOLDER CACHE METHOD...`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from everclip.losses.distillation import image_text_distillation
from everclip.losses.global_batch import global_rows
from tests.conftest import run_in

# 9 pictures per later session in batches of 4: the last batch has one picture, so one process has none.
WORDS = ("sequence.way=3", "sequence.num_classes=9", "sequence.shots=3", "train.batch_size=4", "train.base.epochs=1")


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
    student, known = global_rows(indices, pictures[own] @ weight, teacher[own])
    there = texts @ weight
    losses = image_text_distillation(
        student @ there.T, known @ texts.T, temperature=2.0, image_weight=1.0, text_weight=1.0
    )
    torch.stack(list(losses.values())).sum().backward()
    assert weight.grad is not None
    return weight.grad


if __name__ == "__main__":
    for name in sys.argv[3:]:
        words = (*WORDS, f"method={name}", "trainer=ddp", "trainer.accelerator=cpu")
        run_in(Path(sys.argv[1]) / name, Path(sys.argv[2]), *words)
    # One picture is on both processes: it counts once.
    gradient = text_gradient((slice(0, 4), slice(3, 5)))
    torch.distributed.all_reduce(gradient)
    torch.save(gradient / 2, Path(sys.argv[1]) / "gradient.pt")
