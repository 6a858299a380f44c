"""What features in the place of pictures save: `python scripts/bench_features.py [--methods coop prolip]`.

Per method, on a ViT-B/16 with random weights and 100 classes: seconds per step on pictures (`data.features=off`) and on
features (`memory`), seconds to encode a picture, and from these the seconds of a run of 16 shots, with the passes and
batches that were published for it, both ways. The pictures lie decoded in memory, so that reading favours neither.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from side_by_side import Following

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.methods.base import Method
from everclip.methods.coop import Coop
from everclip.methods.linear_probe import LinearProbe
from everclip.methods.prolip import Prolip
from everclip.training.engine import Engine
from everclip.training.phases import Budget, Training
from everclip.training.schedules import Schedule
from everclip.types import ClassSet, Phase, Session

log = logging.getLogger("bench_features")
CLASSES = ClassSet(tuple(range(100)), tuple(f"class number {i}" for i in range(100)), ("a photo of a {}.",))
SHOTS = 16


@dataclass(frozen=True)
class Plan:
    """A method, and the passes and pictures per step of its 16-shot runs (None: all pictures)."""

    make: Callable[[OpenClip], Method]
    epochs: int
    batch_size: int | None


PLANS = {
    "coop": Plan(Coop, 200, 32),
    "prolip": Plan(Prolip, 300, None),
    "linear_probe": Plan(LinearProbe, 50, 32),
}


def measure(plan: Plan, features: Literal["off", "memory"], options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a step (the first one left out), and before it."""
    torch.manual_seed(0)
    backbone = OpenClip(model=options.model, weights="random")
    size = backbone.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (options.pictures, size, size, 3), dtype=np.uint8)
    session = Session(0, "all", CLASSES, CLASSES, ArrayImages(pixels, np.arange(options.pictures) % 100, "random"))
    engine = Engine(features=features, eval_batch_size=32)
    method = plan.make(backbone)
    engine.place(method)
    method.begin_session(session, engine.extractor(method))
    batch_size = min(plan.batch_size or SHOTS * 100, options.pictures)
    epochs = -(-options.steps * batch_size // options.pictures)
    budget = Budget(max(epochs, options.steps), batch_size, max_steps=options.steps)
    training = Training(budget, budget, torch.optim.SGD, Schedule())
    moments = [time.perf_counter()]  # now, the start, the end of each step

    def note() -> None:
        moments.append(time.perf_counter())

    engine.fit(method, session, Phase(batch_size=batch_size), 0, training, Following(note, note))
    begin, start, first, *_, last = moments
    return (last - first) / (len(moments) - 3), start - begin


def main() -> None:
    """Prints one line per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--model", default="ViT-B-16-quickgelu")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    log.setLevel(logging.INFO)
    columns = ("method", "step off", "step memory", "encode 1", "run off", "run memory", "ratio")
    log.info("%-14s %12s %12s %12s %14s %14s %7s", *columns)
    for name in options.methods:
        plan, count = PLANS[name], SHOTS * 100
        plain, _ = measure(plan, "off", options)
        kept, before = measure(plan, "memory", options)
        picture = before / options.pictures
        if plan.batch_size is None:  # a step on all pictures; on pictures it grows with their number
            plain, steps = plain * count / options.pictures, plan.epochs
        else:
            steps = plan.epochs * -(-count // plan.batch_size)
        off, memory = steps * plain, steps * kept + count * picture
        log.info(
            "%-14s %12.4f %12.4f %12.4f %14.0f %14.0f %7.1f", name, plain, kept, picture, off, memory, off / memory
        )


if __name__ == "__main__":
    main()
