"""How much of a step is launching: `python scripts/bench_launches.py [--device cuda] [--precision bf16]`.

Steps of CPE-CLIP on ViT-B/16 with random weights, as they are and with compiled blocks (`trainer.compile=true`), in
turn: medians of the time, and of one step the kernels that are launched (on a CPU the operators that are called), the
time that they take and the time that nothing runs. A step that is mostly waiting for launches gains from compiled
blocks or larger batches, another one does not.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from everclip.backbones.open_clip import OpenClip
from everclip.data.drawing import shapes
from everclip.methods.cpe_clip import CpeClip
from everclip.types import Batch, ClassSet, Session

log = logging.getLogger("bench_launches")


class Steps:
    """Steps of a method on the same pictures."""

    def __init__(self, model: str, compiled: bool, batch_size: int, device: str) -> None:
        torch.manual_seed(0)
        backbone = OpenClip(model=model, weights="random")
        if compiled:
            backbone.compile_blocks()
        self.method = CpeClip(backbone).to(device)
        classes = ClassSet(tuple(range(60)), shapes.all_class_names()[:60])
        session = Session(0, "base", classes, classes, None)  # type: ignore[arg-type]  # no pictures
        self.method.begin_session(session, None)  # type: ignore[arg-type]  # extracts nothing
        size = backbone.image_size
        images = torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
        labels = torch.arange(batch_size, device=device) % 60
        self.batch = Batch(images, labels, torch.arange(batch_size))
        trained = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9, fused=True)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        sum(self.method.loss(self.batch).values()).backward()  # type: ignore[union-attr]  # of tensors
        self.optimizer.step()


def seconds(step: Steps, device: str) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def launched(step: Steps, device: str) -> tuple[int, float]:
    """Kernels (operators) of one step, and the seconds that they take."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        seconds(step, device)
    events = [event for event in seen.events() if event.device_type.name == device.upper()]
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return len(events), sum(getattr(event, own) for event in events) / 1e6


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--model", default="ViT-B-16-quickgelu")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 32, 64])
    parser.add_argument("--blocks", nargs="+", default=["plain", "compiled"], choices=["plain", "compiled"])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    log.info(
        "%s, %s, %s\n| batch | blocks | ms | launches | busy ms |", options.device, options.precision, options.model
    )
    autocast = torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16")
    for batch_size in options.batch_sizes:
        steps = {name: Steps(options.model, name == "compiled", batch_size, options.device) for name in options.blocks}
        times: dict[str, list[float]] = {name: [] for name in steps}
        with autocast:
            for step in steps.values():
                seconds(step, options.device)
            for _ in range(options.repeats):
                for name, step in steps.items():
                    times[name].append(seconds(step, options.device))
            for name, step in steps.items():
                count, busy = launched(step, options.device)
                median = 1e3 * statistics.median(times[name])
                log.info("| %d | %s | %.2f | %d | %.2f |", batch_size, name, median, count, 1e3 * busy)


if __name__ == "__main__":
    main()
