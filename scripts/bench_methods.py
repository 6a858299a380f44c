"""What a step of each method costs: `python scripts/bench_methods.py [--methods zscl lwf] [--backbone vit_b16_openai]`.

Per method, on random weights and pictures, in the last phase of the second session, where exemplars, penalties and
selectors are at work: seconds per step, peak memory, the share of the step spent in forward passes without gradient
(teacher, query) and in passes over reference or replayed pictures, trained values, and the size of a session's
checkpoint. A method with reference texts is also timed with its teacher reading them in every step, as trimmed rows and
as rows of 77 tokens, and its losses are compared with those of the cached texts.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from side_by_side import seconds
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.commands.parts import make_parts, make_training
from everclip.config import build, schema
from everclip.config.catalogue import option_names
from everclip.methods.base import Extract, Method, prepared
from everclip.training.checkpoint import Adapted
from everclip.training.engine import Engine
from everclip.training.phases import Training, parameter_groups
from everclip.training.runner import session_view
from everclip.types import Batch, Phase, Session, TaskSequence

log = logging.getLogger("bench_methods")
CONTEXT = 77


class Passes:
    """Seconds spent in the backbones' forward passes: without gradient, and over auxiliary pictures with gradient."""

    def __init__(self) -> None:
        self.without_gradient = self.auxiliary = 0.0
        self.shown: Tensor | None = None

    def timed(self, encode: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The pass, timed."""

        def _encode(backbone: OpenClip, inputs: Tensor, *rest: Any, **options: Any) -> Tensor:
            start = now(inputs.device)
            features = encode(backbone, inputs, *rest, **options)
            seconds = now(inputs.device) - start
            if not torch.is_grad_enabled():
                self.without_gradient += seconds
            elif inputs is self.shown:
                self.auxiliary += seconds
            return features

        return _encode

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Times all backbones while it lasts."""
        originals: dict[str, Callable[..., Tensor]] = {
            "encode_image": OpenClip.encode_image,
            "encode_text": OpenClip.encode_text,
        }
        for name, original in originals.items():
            setattr(OpenClip, name, self.timed(original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(OpenClip, name, original)


def now(device: torch.device) -> float:
    """The time when all work given to a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def composed(method: str, options: argparse.Namespace, cache: str) -> DictConfig:
    """The configuration of one method on the embedded class-incremental sequence."""
    words = [f"method={method}", f"backbone={options.backbone}", "backbone.weights=random", "sequence=shapes_cil"]
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        return compose("run", [*words, f"paths.cache={cache}", *options.overrides])


def begun(method: Method, sequence: TaskSequence, training: Training, extract: Extract) -> tuple[Session, list[Phase]]:
    """The second session as the runner gives it to a method, after a first one without steps, and its phases."""
    first, _ = session_view(sequence, 0, method, training)
    method.begin_session(first, extract)
    method.phases(first)
    method.end_session(first, extract)
    second, _ = session_view(sequence, 1, method, training)
    method.begin_session(second, extract)
    return second, [prepared(phase, extract) for phase in method.phases(second)]


def random_batch(method: Method, session: Session, phase: Phase, size: int) -> Batch:
    """Normalised noise with labels of the session, and auxiliary pictures where the phase has them."""
    device, side = method.backbone.device, method.backbone.image_size

    def noise(labels: Tensor) -> Batch:
        rows = torch.arange(size)
        return Batch(torch.randn(size, 3, side, side), labels, rows).to(device)

    ids = torch.tensor(session.new.ids)
    own = noise(ids[torch.arange(size) % len(ids)])
    if phase.auxiliary is None:
        return own
    return replace(own, auxiliary=noise(torch.from_numpy(phase.auxiliary.labels)[torch.arange(size)]))


def step(method: Method, phase: Phase, batch: Batch, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """One optimiser step; its losses."""
    losses = (phase.loss or method.loss)(batch)
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    method.before_step()
    optimizer.step()
    method.after_step()
    return {name: loss.item() for name, loss in losses.items()}


def measure(name: str, options: argparse.Namespace, cache: str) -> None:
    """Prints one method's row, and what its cached reference texts save; in a process of its own, for its memory."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    build.register()
    engine = Engine()
    settings = composed(name, options, cache)
    sequence, _, method = make_parts(settings, load=True)
    method.to(engine.device)
    adapted, extract = Adapted(method), engine.extractor(method)
    training = make_training(settings)
    few = range(2 * options.batch_size)
    short = tuple(replace(session, train=session.train.subset(few)) for session in sequence.sessions[:2])
    session, phases = begun(method, replace(sequence, sessions=short), training, extract)
    if not phases:
        log.info("| %-12s | trains nothing |", name)
        return
    phase = phases[-1]
    optimizer = training.make_optimizer(parameter_groups(phase.parameters or method.parameters()))
    batch = random_batch(method, session, phase, options.batch_size)
    passes = Passes()
    passes.shown = batch.auxiliary.images if batch.auxiliary else None
    with passes.watching():
        cached = seconds(lambda: step(method, phase, batch, optimizer), options.repeats)
    total = (options.repeats + 1) * cached
    method.end_session(session, extract)
    size = sum(tensor.nbytes for tensor in adapted.tensors().values()) / 1e6
    shares = f"{passes.without_gradient / total:7.0%} | {passes.auxiliary / total:9.0%}"
    trained = f"{method.num_trainable():11,} | {size:13.1f}"
    log.info("| %-12s | %8.3f | %9.0f | %s | %s |", name, cached, peak_memory(engine.device), shares, trained)
    if hasattr(method, "reference"):
        method.begin_session(session, extract)
        compare_texts(method, phase, batch, optimizer, cached, options)


def compare_texts(
    method: Any,
    phase: Phase,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    cached: float,
    options: argparse.Namespace,
) -> None:
    """Times the step with the teacher reading the reference texts in it, and compares losses."""
    texts, kept = method.reference.texts, method.texts
    for title, read in {
        "trimmed": lambda: method.teacher.encode_text(texts),
        f"{CONTEXT} tokens": lambda: method.teacher.encode_tokens(method.backbone.tokenizer(list(texts))),
    }.items():
        with torch.no_grad():
            totals = []
            for features in (kept, read()):
                method.texts = features
                totals.append(float(torch.stack(list(method.loss(batch).values())).sum()))

        def naive(read: Callable[[], Tensor] = read) -> None:
            method.texts = read()
            step(method, phase, batch, optimizer)

        slow = seconds(naive, options.repeats)
        row = (len(texts), title, slow, cached, slow / cached, abs(totals[1] / totals[0] - 1))
        log.info("  %d reference texts in every step (%s): %.2f s / %.2f s = %.1f x, losses differ by %.1e", *row)


def peak_memory(device: torch.device) -> float:
    """Highest memory use so far, MB: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=option_names("method"))
    parser.add_argument("--backbone", default="vit_b16_openai")
    parser.add_argument("--batch-size", type=int, default=64 if torch.cuda.is_available() else 8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="of the configuration, for example reference.num_classes=200")
    options = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    log.info("%s, batch %d, %s, %d threads", options.backbone, options.batch_size, device, torch.get_num_threads())
    log.info("| method       | s / step | peak (MB) | no grad | reference | trained     | checkpoint MB |")
    with tempfile.TemporaryDirectory() as cache:
        for name in options.methods:
            child = multiprocessing.get_context("spawn").Process(target=measure, args=(name, options, cache))
            child.start()
            child.join()
            if child.exitcode:
                raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    main()
