"""The run folder: its files, their order of writing, and who works in it. Needs no model and no torch."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from everclip import storage
from everclip.errors import LockedError
from everclip.metrics.accuracy_matrix import AccuracyMatrix

log = logging.getLogger("everclip")


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """Files of one run. `sessions.jsonl` is the record of what is done; matrix and summary are made from it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def state(self) -> str | None:
        """`running`, `preempted`, `failed`, `finished`; None for a folder without a run."""
        return str(self.read_run().get("state")) if (self.path / "run.json").is_file() else None

    def read_run(self) -> dict[str, Any]:
        """Content of `run.json`, empty if there is none."""
        return _read_json(self.path / "run.json")

    def update_run(self, **facts: Any) -> None:
        """Changes facts in `run.json`."""
        storage.write_json(self.path / "run.json", self.read_run() | facts)

    def read_summary(self) -> dict[str, Any]:
        """Content of `summary.json`, empty if there is none."""
        return _read_json(self.path / "summary.json")

    def checkpoint(self, session: int) -> Path:
        """Path of a session's checkpoint."""
        return self.path / "checkpoints" / f"session_{session:02d}.safetensors"

    def read_sessions(self) -> list[dict[str, Any]]:
        """Records of the finished sessions, up to the first line that is damaged or out of order."""
        records: list[dict[str, Any]] = []
        path = self.path / "sessions.jsonl"
        for line in path.read_text().splitlines() if path.is_file() else []:
            with suppress(json.JSONDecodeError):
                record = json.loads(line)
                if record.get("index") == len(records):
                    records.append(record)
                    continue
            log.warning("%s: line %d is damaged or out of order; going on from before it", path, len(records) + 1)
            break
        return records

    def write_sessions(self, records: list[dict[str, Any]], num_tasks: int) -> None:
        """Replaces `sessions.jsonl`, then the matrix and its counts, which follow from it."""
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        storage.write_text(self.path / "sessions.jsonl", lines)
        matrix = matrix_of(records, num_tasks)
        tasks = [f"task_{task:02d}" for task in range(num_tasks)]
        for name, values in (("accuracy_matrix.csv", matrix.accuracy), ("counts.csv", matrix.counts)):
            buffer = io.StringIO()
            writer = csv.writer(buffer, lineterminator="\n")
            writer.writerow(["session", *tasks])
            for session, row in enumerate(values):
                cells = [repr(float(v)) if name.startswith("acc") else str(int(v)) for v in row]
                writer.writerow([session, *("" if cell == "nan" else cell for cell in cells)])
            storage.write_text(self.path / name, buffer.getvalue())

    def lock(self) -> None:
        """Takes the folder for this process, also from a process of this host that is gone.

        Raises:
            LockedError: another process works here; says which.
        """
        path = self.path / "lock.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": now()}
        for _ in range(2):
            try:
                with path.open("x") as file:
                    json.dump(mine, file)
                return
            except FileExistsError:
                holder = _read_json(path)
                if holder and (holder.get("host") != mine["host"] or _alive(holder.get("pid"))):
                    break
                path.unlink(missing_ok=True)
        raise LockedError(
            f"{self.path} is in use by process {holder.get('pid')} on {holder.get('host')} "
            f"since {holder.get('since')}; if that process is gone, remove {path.name} there"
        )

    def unlock(self) -> None:
        """Gives the folder back."""
        (self.path / "lock.json").unlink(missing_ok=True)


def matrix_of(records: list[dict[str, Any]], num_tasks: int) -> AccuracyMatrix:
    """The accuracy matrix that session records add up to."""
    matrix = AccuracyMatrix(num_tasks)
    for record in records:
        matrix.append(
            {int(task["task"]): task["correct"] for task in record["tasks"]},
            {int(task["task"]): task["count"] for task in record["tasks"]},
        )
    return matrix


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with suppress(json.JSONDecodeError):
        value = json.loads(path.read_text())
        return value if isinstance(value, dict) else {}
    return {}


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, of another user
        return True
    return True
