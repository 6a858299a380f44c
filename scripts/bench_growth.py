"""How the cost of CPE-CLIP grows over 5, 20 and 50 sessions: `python scripts/bench_growth.py`; 9: the default run.

Work is what passes through the method's loss, `before_step` and classifier, `backward`, the optimiser, and the loading
and normalising of pictures; all other time is the runner's overhead. Steps: between the first loss and the last
optimiser step of a session. The seconds of nested parts count once.
"""

from __future__ import annotations

import argparse
import functools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from everclip.backbones.base import Backbone
from everclip.commands import execute
from everclip.config import build, schema
from everclip.data.loading import PreparedSamples
from everclip.methods.base import Extract
from everclip.methods.cpe_clip import CpeClip
from everclip.runs.folder import RunFolder
from everclip.types import Session

log = logging.getLogger("bench_growth")
# Of 100 classes: those of the base session, those of every other one; and the base session's passes.
SESSIONS = {5: (60, 10, 1), 9: (60, 5, 10), 20: (24, 4, 1), 50: (51, 1, 1)}


class Ledger:
    """Seconds of work so far, and readings of the clock and of the work at the marks of each session."""

    def __init__(self) -> None:
        self.work = 0.0
        self.depth = 0
        self.starts: list[tuple[float, float]] = []
        self.losses: list[tuple[float, float]] = []
        self.steps: list[tuple[float, float]] = []

    def mark(self) -> tuple[float, float]:
        """Now, and the work until now."""
        return time.perf_counter(), self.work

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its outermost calls counted as work."""

        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            start, self.depth = time.perf_counter(), self.depth + 1
            try:
                return function(*arguments, **options)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.work += time.perf_counter() - start

        return wrapper


def watch(ledger: Ledger) -> None:
    """Puts the ledger around everything that counts as work, for the rest of the process."""
    begin, loss, step, classifier = CpeClip.begin_session, CpeClip.loss, torch.optim.SGD.step, CpeClip.classifier

    def begin_session(self: CpeClip, session: Session, extract: Extract) -> None:
        ledger.starts.append(ledger.mark())
        begin(self, session, extract)

    def first_loss(self: CpeClip, batch: Any) -> Any:
        if len(ledger.losses) < len(ledger.starts):
            ledger.losses.append(ledger.mark())
            ledger.steps.append(ledger.mark())
        return ledger.counted(loss)(self, batch)

    def counted_step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            result = None if closure is None else closure()  # Lightning's: loss and `backward`, counted themselves
        ledger.counted(step)(self)
        ledger.steps[-1] = ledger.mark()
        return result

    CpeClip.begin_session = begin_session  # type: ignore[method-assign]  # measured
    CpeClip.loss = first_loss  # type: ignore[method-assign]  # measured
    torch.optim.SGD.step = counted_step  # type: ignore[method-assign]  # measured
    CpeClip.classifier = lambda self, classes: ledger.counted(ledger.counted(classifier)(self, classes))  # type: ignore[method-assign]  # measured
    torch.Tensor.backward = ledger.counted(torch.Tensor.backward)  # type: ignore[method-assign]  # measured
    torch.optim.SGD.zero_grad = ledger.counted(torch.optim.SGD.zero_grad)  # type: ignore[method-assign]  # measured
    CpeClip.before_step = ledger.counted(CpeClip.before_step)  # type: ignore[method-assign]  # measured
    PreparedSamples.__getitems__ = ledger.counted(PreparedSamples.__getitems__)  # type: ignore[method-assign]  # measured
    Backbone.normalize = ledger.counted(Backbone.normalize)  # type: ignore[method-assign]  # measured


def run(sessions: int, folder: Path, overrides: list[str]) -> tuple[Ledger, list[dict[str, Any]]]:
    """A whole run of so many sessions; what it cost, and its records."""
    base, way, epochs = SESSIONS[sessions]
    settings = [f"sequence.base_classes={base}", f"sequence.way={way}", f"train.base.epochs={epochs}", "trainer=cpu"]
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        places = [f"paths.outputs={folder}", f"paths.cache={folder}"]
        composed = compose("run", [*settings, *places, *overrides], return_hydra_config=True)
    hydra = composed.hydra
    with open_dict(composed):
        hydra.runtime.output_dir = str(folder)
        del composed["hydra"]
    target, ledger = RunFolder(folder / "run"), Ledger()
    watch(ledger)
    execute.run(composed, hydra, target)
    ledger.starts.append(ledger.mark())
    return ledger, target.read_sessions()


def show(sessions: int, ledger: Ledger, records: list[dict[str, Any]]) -> None:
    """Prints medians over sessions: the first and the last five few-shot ones, all of these, and those of the run."""

    def spare(marks: list[tuple[float, float]], others: list[tuple[float, float]], index: int) -> float:
        (start, before), (end, after) = marks[index], others[index]
        return (end - start) - (after - before)

    whole = [spare(ledger.starts, ledger.starts[1:], i) for i in range(len(records))]
    inside = [spare(ledger.losses, ledger.steps, i) for i in range(len(records))]
    spans = [end[0] - start[0] for start, end in zip(ledger.losses, ledger.steps, strict=True)]
    parts = {"first 5": slice(1, 6), "last 5": slice(-5, None), "few-shot": slice(1, None), "whole run": slice(None)}
    for title, rows in parts.items():
        columns = [
            *([record[key] for record in records[rows]] for key in ("train_seconds", "eval_seconds", "peak_memory_mb")),
            [a - b for a, b in zip(whole[rows], inside[rows], strict=True)],
            [1e3 * a / record["train_steps"] for a, record in zip(inside[rows], records[rows], strict=True)],
        ]
        medians = " | ".join(f"{statistics.median(column):.3f}" for column in columns)
        log.info("| %d | %s | %s | %.1f |", sessions, title, medians, 100 * sum(inside[rows]) / sum(spans[rows]))


def main() -> None:
    """Prints the table. One number of sessions per process: the peak of memory never falls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20, choices=SESSIONS)
    parser.add_argument("overrides", nargs="*", help="more of the configuration, for example logger=none")
    options = parser.parse_args()
    build.register()
    with tempfile.TemporaryDirectory() as folder:
        measured = run(options.sessions, Path(folder), options.overrides)
    logging.basicConfig(level=logging.ERROR, format="%(message)s", force=True)
    log.setLevel(logging.INFO)
    log.info("| sessions | which | train s | eval s | peak MB | overhead s/session | ms/step | % of steps |")
    show(options.sessions, *measured)


if __name__ == "__main__":
    main()
