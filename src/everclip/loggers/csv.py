"""The record of training losses."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from everclip import storage
from everclip.loggers.base import RunLogger


class CsvLogger(RunLogger):
    """`train.csv` with one line per value: step, name, value. The record that other mirrors are filled from.

    Args:
        folder: the run folder.
        step: to go on from; later lines will be written again and are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "train.csv"
        kept = [row for row in _read_rows(path) if int(row[0]) <= step]
        self.history = [
            (int(at), {name: float(value) for _, name, value in rows})
            for at, rows in groupby(kept, key=lambda row: row[0])
        ]
        storage.write_text(path, "".join(",".join(row) + "\n" for row in (["step", "name", "value"], *kept)))
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        self._writer.writerows([[step, name, repr(value)] for name, value in metrics.items()])

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, failed: bool = False) -> None:
        self._file.close()


def _read_rows(path: Path) -> list[list[str]]:
    """The whole lines below the header; a kill can leave half a line at the end."""
    if not path.is_file():
        return []
    rows = csv.reader(path.read_text(encoding="utf-8", errors="replace").splitlines()[1:])
    return [row for row in rows if len(row) == 3 and row[0].isdecimal()]
