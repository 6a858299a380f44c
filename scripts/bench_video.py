"""What video costs: `python scripts/bench_video.py merging [--model ViT-B-32-quickgelu --frames 12]`.

merging: the image tower of `tempme` beside that of the same low-rank updates without merging (the mean of frames), on
random weights and clips: floating-point operations of a clip, with attention written out; seconds of a batch without
gradients, and of a step on clips with captions, in turn.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import Method
from everclip.methods.lora import Lora
from everclip.methods.tempme import Tempme
from everclip.objectives.contrastive import Contrastive
from everclip.types import NO_CLASSES, Batch

log = logging.getLogger("bench_video")


def operations(method: Method, clip: Tensor) -> int:
    """Floating-point operations of the image tower for clips (B, T, 3, S, S)."""
    torch.backends.mha.set_fastpath_enabled(False)  # in which nothing is counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        method.encode_image(clip)
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def seconds(run: Callable[[], Any]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def step(method: Method, pairs: Batch) -> None:
    """Loss and gradients."""
    Contrastive().loss(method, pairs, NO_CLASSES, 0.0)["contrastive"].backward()


def in_turn(methods: Mapping[str, Method], run: Callable[[Method], Any], rounds: int) -> dict[str, float]:
    """Median seconds of each, the first round left out."""
    taken = [{name: seconds(partial(run, method)) for name, method in methods.items()} for _ in range(rounds + 1)]
    return {name: statistics.median(times[name] for times in taken[1:]) for name in methods}


def compare_merging(options: argparse.Namespace) -> None:
    """Prints a line per figure: without merging, with it, and the ratio."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"frames": options.frames, "factors": options.factors, "layers": options.layers}
    methods: dict[str, Method] = {
        "frame mean": Lora(OpenClip(model=options.model, weights="random"), rank=8, alpha=8, targets=["qkv"]),
        "merged": Tempme(OpenClip(model=options.model, weights="random"), **settings, tokens=options.tokens),
    }
    size = methods["merged"].backbone.image_size
    clips = torch.randn(options.batch, options.frames, 3, size, size)
    texts = tuple(f"clip number {index} of many, with a caption of some words" for index in range(options.batch))
    pairs = Batch(clips, torch.zeros(options.batch), torch.arange(options.batch), texts=texts)

    def encode(method: Method) -> None:
        with torch.no_grad():
            method.encode_image(clips)

    lines = {
        "GFLOPs of a clip": {name: operations(method, clips[:1]) / 1e9 for name, method in methods.items()},
        f"s to encode {options.batch} clips": in_turn(methods, encode, options.rounds),
        f"s of a step on {options.batch} clips": in_turn(methods, lambda m: step(m, pairs), options.rounds),
    }
    log.info("%-24s %12s %12s %8s", f"{options.model}, {options.frames} frames", *methods, "ratio")
    for what, figures in lines.items():
        plain, merged = figures.values()
        log.info("%-24s %12.2f %12.2f %8.2f", what, plain, merged, merged / plain)


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    merging = parts.add_parser("merging")
    merging.set_defaults(run=compare_merging)
    merging.add_argument("--model", default="ViT-B-32-quickgelu")
    merging.add_argument("--frames", type=int, default=12)
    merging.add_argument("--layers", type=int, nargs="*", default=[-4, -3, -2])
    merging.add_argument("--factors", type=int, nargs="*", default=[2, 2, 3])
    merging.add_argument("--tokens", type=int, default=2)
    merging.add_argument("--batch", type=int, default=4)
    merging.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    options.run(options)


if __name__ == "__main__":
    main()
