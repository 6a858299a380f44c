"""Seconds until something happens: imports of others, the first training step, and the commands that need no model.

Whole processes one after the other in turn, medians; `--rounds` of them. What is imported alone is a floor that no code
of ours can go below.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("bench")
FIRST_STEP = """
import os, sys
from everclip.commands.run import main
from everclip.training.phases import PhaseModule
PhaseModule.training_step = lambda *_: os._exit(0)
sys.argv = ["everclip", *sys.argv[1:]]
main()
"""


def command(module: str, *words: str) -> Sequence[str]:
    """How a command of ours is started."""
    return [sys.executable, "-m", f"everclip.commands.{module}", *words]


def code(text: str, *words: str) -> Sequence[str]:
    """How a piece of Python is started."""
    return [sys.executable, "-c", text, *words]


def cases(folder: Path) -> dict[str, Sequence[str]]:
    """What is timed, by name; runs go below a folder."""
    run = ("trainer=cpu", "logger=none", "method=zero_shot", f"paths.outputs={folder}/done")
    subprocess.run(command("run", *run), check=True, capture_output=True)
    return {
        "import torch": code("import torch"),
        "import torch, lightning, open_clip": code("import torch, lightning.pytorch, open_clip"),
        "the same, and one step of AdamW": code(
            "import torch, lightning.pytorch, open_clip\n"
            "p = torch.nn.Parameter(torch.zeros(2)); p.sum().backward(); torch.optim.AdamW([p]).step()"
        ),
        "everclip, to the first step": code(FIRST_STEP, f"paths.outputs={folder}/new", "trainer=cpu", "logger=none"),
        "everclip, of a finished run": command("run", *run),
        "everclip check=true": command("run", "check=true", *run),
        "everclip --help": command("run", "--help"),
        "everclip-list": command("list"),
        "everclip-list methods": command("list", "methods"),
        "everclip-list runs": command("list", "runs", str(folder)),
        "everclip-status": command("status", str(folder)),
        "everclip-diff": command("diff", f"{folder}/done", f"{folder}/done"),
        "everclip-table shapes": command("table", "shapes", f"paths.outputs={folder}/done"),
    }


def main() -> None:
    """Prints a Markdown table of medians."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        taken: dict[str, list[tuple[float, float]]] = {}
        todo = cases(Path(folder))
        for name, words in [*todo.items()] * rounds:
            start, before = time.perf_counter(), os.times()
            subprocess.run(words, check=False, capture_output=True)
            after = os.times()
            processor = after.children_user + after.children_system - before.children_user - before.children_system
            taken.setdefault(name, []).append((time.perf_counter() - start, processor))
    log.info("| what | s | processor s |\n|---|---|---|")
    for name, pairs in taken.items():
        log.info("| %s | %.2f | %.2f |", name, *(statistics.median(column) for column in zip(*pairs, strict=True)))


if __name__ == "__main__":
    main()
