"""What gradient caching costs and saves: `python scripts/bench_pairs.py [--batch 256 --pieces 8]`.

A contrastive step on image-text pairs, all weights trained, with the whole batch at once and in pieces
(`trainer.accumulate`): seconds, peak memory and the largest difference of a gradient, on random weights. Each way runs
in processes of its own, in turn, so that neither sees the memory of the other.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import statistics
import time

import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.finetune import Finetune
from everclip.objectives.contrastive import Contrastive
from everclip.types import NO_CLASSES, Batch

log = logging.getLogger("bench_pairs")


def step(model: str, batch: int, pieces: int) -> tuple[float, float, dict[str, Tensor]]:
    """Seconds and peak memory (MB, of the whole process) of one step on `batch` pairs, and the gradients."""
    torch.manual_seed(0)
    backbone = OpenClip(model=model, weights="random")
    method = Finetune(backbone)
    backbone.pieces = pieces
    images = torch.randn(batch, 3, backbone.image_size, backbone.image_size)
    texts = tuple(f"picture number {index} of many, with a caption of some words" for index in range(batch))
    pairs = Batch(images, torch.zeros(batch, dtype=torch.long), torch.arange(batch), texts=texts)
    begin = time.perf_counter()
    Contrastive().loss(method, pairs, NO_CLASSES, 0.0)["contrastive"].backward()
    seconds = time.perf_counter() - begin
    gradients = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, gradients


def main() -> None:
    """Prints a line per way, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32-quickgelu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pieces", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    found: dict[int, list[tuple[float, float, dict[str, Tensor]]]] = {1: [], options.pieces: []}
    for _ in range(options.rounds):
        for pieces, steps in found.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                steps.append(pool.apply(step, (options.model, options.batch, pieces)))
    medians = {
        pieces: (statistics.median(s[0] for s in steps), statistics.median(s[1] for s in steps))
        for pieces, steps in found.items()
    }
    for pieces, (seconds, memory) in medians.items():
        log.info("%-14s %8.2f s %8.0f MB", "whole batch" if pieces == 1 else f"{pieces} pieces", seconds, memory)
    (whole, most), (divided, least) = medians.values()
    first, second = (steps[0][2] for steps in found.values())
    furthest = max((first[name] - second[name]).abs().max().item() for name in first)
    largest = max(gradient.abs().max().item() for gradient in first.values())
    log.info(
        "time x%.2f, memory x%.2f; gradients differ by %.1e of %.1e", divided / whole, least / most, furthest, largest
    )


if __name__ == "__main__":
    main()
