"""Images per second, side by side in one process: `python scripts/bench_data.py [--epochs 10]`.

Plain: torchvision's ImageFolder with the backbone's own preprocessing in a DataLoader with two workers. Ours: the
loader of a run with its default settings and `data.cache=disk`, cold (an epoch with the building of the cache) and
warm (the median of later epochs); batches shuffled and normalised in all three.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from everclip.backbones.open_clip import OpenClip
from everclip.data.cache import cache_all
from everclip.data.images import FileImages
from everclip.data.loading import SeededBatches, make_loader
from everclip.types import Samples

log = logging.getLogger("bench_data")
CLASSES = 10
BATCH_SIZE = 64


def write_pictures(root: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files of blurred and fine noise, about as hard to decode as photographs, in class folders."""
    noise = np.random.Generator(np.random.PCG64(0))
    fine = noise.normal(0, 10, (size[1], size[0], 3))
    for i in range(count):
        folder = root / f"class{i % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size)
        pixels = (np.asarray(coarse) + np.roll(fine, i, axis=0)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=90)


def seconds(batches: Iterable[object]) -> float:
    """Time that a pass takes."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def resident() -> float:
    """Memory of this process in MB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def our_epoch(images: Samples, backbone: OpenClip, epoch: int) -> Iterable[torch.Tensor]:
    """The normalised batches of one epoch."""
    sampler = SeededBatches(len(images), BATCH_SIZE, (0, epoch), steps=-(-len(images) // BATCH_SIZE))
    for batch in make_loader(images, backbone.resize, sampler, num_workers=0):
        yield backbone.normalize(batch.images)


def compare(backbone: OpenClip, count: int, size: tuple[int, int], epochs: int, top: Path) -> None:
    """Prints the figures of one backbone and kind of picture."""
    write_pictures(top / "pictures", count, size)
    transform = image_transform_v2(PreprocessCfg(**backbone.model.visual.preprocess_cfg), is_train=False)
    folder = ImageFolder(str(top / "pictures"), transform)
    plain = DataLoader(folder, BATCH_SIZE, shuffle=True, num_workers=2, persistent_workers=True)
    images = FileImages([Path(path) for path, _ in folder.samples], np.array(folder.targets), top)

    seconds(plain)  # starts the workers
    slow = [seconds(plain)]
    start = time.perf_counter()
    (kept,) = cache_all([images], backbone.resize, top / "cache")
    cold = time.perf_counter() - start + seconds(our_epoch(kept, backbone, 0))
    memory = [resident()]
    warm = []
    for epoch in range(1, epochs):
        warm.append(seconds(our_epoch(kept, backbone, epoch)))
        memory.append(resident())
        if epoch % 4 == 1:  # among ours, so that other work on the machine slows both
            slow.append(seconds(plain))
    difference = float((backbone.normalize(kept.read([0], backbone.resize).images)[0] - folder[0][0]).abs().max())

    rates = [count / float(np.median(times)) for times in (slow, [cold], warm)]
    log.info("%d JPEG of %d x %d to %d px: images/s", count, *size, backbone.image_size)
    for title, rate in zip(("plain, 2 workers", "ours, cold", "ours, warm"), rates, strict=True):
        log.info("  %-17s %8.0f  %5.1f x", title, rate, rate / rates[0])
    log.info("  resident after each epoch: %s MB", " ".join(f"{size:.0f}" for size in memory))
    log.info("  largest difference to the plain pictures: %.1e", difference)


def main() -> None:
    """Prints a table per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--small", type=int, default=2000, help="pictures of 32 x 32")
    parser.add_argument("--large", type=int, default=200, help="pictures of 500 x 400")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    log.info("%d cores, %d threads", os.cpu_count() or 1, torch.get_num_threads())
    tiny = OpenClip(model="everclip-tiny", weights="embedded")
    large = OpenClip(model="ViT-B-16", weights="random", load=False)
    for backbone, count, size in ((tiny, options.small, (32, 32)), (large, options.large, (500, 400))):
        with tempfile.TemporaryDirectory() as top:
            compare(backbone, count, size, options.epochs, Path(top))


if __name__ == "__main__":
    main()
