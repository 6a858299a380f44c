"""Runs methods in turn, each on two CPU processes: `python -m tests.two_processes FOLDER CACHE METHOD...`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conftest import run_in

# 9 pictures per later session in batches of 4: the last batch has one picture, so one process has none.
WORDS = ("sequence.way=3", "sequence.num_classes=9", "sequence.shots=3", "train.batch_size=4")

if __name__ == "__main__":
    for name in sys.argv[3:]:
        words = (*WORDS, f"method={name}", "trainer=ddp", "trainer.accelerator=cpu")
        run_in(Path(sys.argv[1]) / name, Path(sys.argv[2]), *words)
