"""What video costs: `python scripts/bench_video.py merging|decoding [--model ViT-B-32-quickgelu --frames 12]`.

decoding: clips a second from mp4 files that are written first, 8 frames of each, prepared for the backbone: a plain
loop of PyAV that decodes a file and takes the same frames; ours cold, with the index of frames kept, and with frames
kept; then the highest memory of the process over ten epochs.

merging: the image tower of `tempme` beside that of the same low-rank updates without merging (the mean of frames), on
random weights and clips: floating-point operations of a clip, with attention written out; seconds of a batch without
gradients, and of a step on clips with captions, in turn.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import FileImages
from everclip.data.video.form import Clips
from everclip.data.video.sampling import Segment
from everclip.data.video.writing import write_video
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


def plain(paths: Sequence[Path], prepare: Callable[..., Tensor], frames: int) -> Tensor:
    """Clips (N, T, 3, S, S) as a loop of PyAV reads them: all frames of a file, then the middles of equal parts."""
    clips = []
    for path in paths:
        with av.open(str(path)) as container:
            decoded = list(container.decode(video=0))
        step = len(decoded) / frames
        chosen = [decoded[int(index * step + step / 2)] for index in range(frames)]
        clips.append(torch.stack([prepare(frame.to_image()) for frame in chosen]))
    return torch.stack(clips)


def compare_decoding(options: argparse.Namespace) -> None:
    """Prints clips a second of each way to read, in one process and thread, as medians of rounds in turn."""
    torch.set_num_threads(1)
    backbone = OpenClip(model=options.model, weights="random")
    stream = np.random.Generator(np.random.PCG64(0))
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place, f"{number}.mp4") for number in range(options.clips)]
        noise = stream.integers(0, 255, (options.height // 8, options.width // 8 + options.length, 3), dtype=np.uint8)
        for number, path in enumerate(paths):
            moving = np.stack(
                [np.roll(noise, number + t, axis=1)[:, : options.width // 8] for t in range(options.length)]
            )
            write_video(path, moving.repeat(8, axis=1).repeat(8, axis=2), 25, options={"crf": "23", "g": "12"})

        def read(**settings: Any) -> Callable[[], Tensor]:
            form = Clips(Segment(options.frames), **settings)
            files = FileImages(paths, np.zeros(len(paths), np.int64), Path(place), form=form)
            return lambda: files.read(range(len(paths)), backbone.resize).images

        kept = {"cache_dir": f"{place}/kept"}
        ways = {
            "plain PyAV": lambda: plain(paths, backbone.resize, options.frames),
            "cold": read(),
            "index kept": read(**kept),
            "frames kept": read(**kept, cache="disk", short_side=backbone.image_size),
        }
        shown = {name: way() for name, way in ways.items()}
        for name in ("cold", "index kept"):
            assert torch.equal(shown[name], shown["plain PyAV"]), f"{name}: other pixels"
        taken = [{name: seconds(way) for name, way in ways.items()} for _ in range(options.rounds)]
        first = statistics.median(times["plain PyAV"] for times in taken)
        said = "%d clips of %d x %dx%d, %d frames shown"
        log.info(said, options.clips, options.length, options.width, options.height, options.frames)
        for name in ways:
            median = statistics.median(times[name] for times in taken)
            log.info("%-12s %8.1f clips/s %8.2f times plain", name, options.clips / median, first / median)
        peaks = []
        for _ in range(10):
            ways["cold"]()
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        log.info("highest memory after epoch 1 and 10: %.0f and %.0f MB", peaks[0], peaks[-1])


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
    decoding = parts.add_parser("decoding")
    decoding.set_defaults(run=compare_decoding)
    decoding.add_argument("--model", default="ViT-B-32-quickgelu")
    for name, value in {"clips": 24, "frames": 8, "length": 100, "width": 320, "height": 240, "rounds": 5}.items():
        decoding.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    options.run(options)


if __name__ == "__main__":
    main()
